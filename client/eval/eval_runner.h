// Runs a plan's jobs one after the other, with progress and ETA. Knows no cluster: the caller asks.
#pragma once

#include <cstdio>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "client/eval/eval_journal.h"
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

// Roughly: "40 s", "12 min", "3.5 h".
std::string FormatDuration(double seconds);

// Sends one request; calls the function with the fraction done, now and then.
using EvalAsk = std::function<absl::StatusOr<GenerateResult>(const v1::GenerateRequest& request,
                                                             const std::function<void(double fraction)>& on_progress)>;

// What jobs cost on the cluster at hand; 0: not measured, and then JobWeight() is all that is known.
struct EvalRates {
  double prefill_s = 0;  // per unit of JobWeight() of a prompt
  double decode_s = 0;   // per token
};
// A request that measures them (ReadRates): dense, short.
absl::StatusOr<v1::GenerateRequest> RatesRequest(const EvalPlan& plan);
EvalRates ReadRates(const v1::GenerateRequest& request, const v1::GenerateEvent::Summary& summary);
// Seconds, if the rates are known.
double JobCost(const v1::GenerateRequest& request, const EvalRates& rates);
// Of the jobs that the journal (may be null) does not have.
double PlanCost(const EvalPlan& plan, const EvalJournal* journal, const EvalRates& rates);

struct EvalRun {
  EvalAsk ask;
  // Called after each failed request with its error: sees to it that there is a cluster to go on with. An error of it
  // ends the run. Empty: nothing is done.
  std::function<absl::Status(const absl::Status& error)> renew;
  // How often a failed request is sent again, but for those that can only fail again.
  uint32_t retries = 0;
  EvalJournal* journal = nullptr;  // has answers, and takes them; null: none
  EvalRates rates;
  std::FILE* progress_out = stderr;
  const Clock* clock = nullptr;
  // Called after each setting, if there is one, so that hours of work need not wait for the end to be saved. An error
  // of it ends the run.
  std::function<absl::Status()> on_setting;
};

// Fills report->results. A job that fails for good is noted there (SettingResult::failures), and report->status says
// at the end how many have failed; the others go on. CANCELLED by the caller, or an error of `renew`, ends the run at
// once: report->status is that error, named after its job, and what was found before stays.
void RunEval(const EvalPlan& plan, const EvalRun& run, EvalReport* report);

}  // namespace tributary
