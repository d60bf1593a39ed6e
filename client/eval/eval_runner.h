// Runs a plan's jobs one after the other, with progress and ETA. Knows no cluster: the caller asks.
#pragma once

#include <cstdio>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "client/eval/eval_report.h"
#include "client/terminal/progress.h"

namespace tributary {

// A bar with the time left on a terminal; elsewhere a line per finished job.
class EvalProgress {
 public:
  // `out` and `clock` outlive it.
  EvalProgress(std::FILE* out, const Clock* clock, double total_weight);

  void BeginJob(std::string what, double weight);
  // `fraction` of the job that has begun.
  void Show(double fraction);
  void EndJob(const std::string& result);
  // Seconds left at the pace so far; negative until something is done.
  double EtaS() const;

 private:
  std::FILE* const out_;
  const Clock* const clock_;
  const int64_t begin_ns_;
  const double total_weight_;
  const bool is_terminal_;
  PrefillBar bar_;
  std::string what_;
  int64_t job_begin_ns_ = 0;
  double done_weight_ = 0;
  double job_weight_ = 0;
  double job_fraction_ = 0;
};

// Sends one request; calls the function with the fraction done, now and then.
using EvalAsk = std::function<absl::StatusOr<GenerateResult>(const v1::GenerateRequest& request,
                                                             const std::function<void(double fraction)>& on_progress)>;

// Fills report->results, and report->status with the first error, named after its job; what was found before stays.
// `on_setting`, if there is one, is called after each setting, so that hours of work need not wait for the end to be
// saved; an error of it ends the run.
void RunEval(const EvalPlan& plan, const EvalAsk& ask, std::FILE* progress_out, const Clock* clock, EvalReport* report,
             const std::function<absl::Status()>& on_setting = {});

}  // namespace tributary
