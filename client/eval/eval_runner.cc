#include "client/eval/eval_runner.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

std::string JobName(const EvalPlan& plan, const EvalJob& job) {
  const EvalSetting& setting = plan.settings[job.setting];
  std::string name = fmt::format("{}, window {}: ", SettingName(setting), setting.window_tokens);
  if (job.question == EvalJob::kPerplexity) {
    return name +
           fmt::format("perplexity of {} tokens after {}", plan.options.decode_tokens, plan.options.prefill_tokens);
  }
  const EvalQuestion& question = plan.questions[job.question];
  return name + fmt::format("{} needle in {} tokens", NeedleKindName(question.spec.kind), question.spec.length_tokens);
}

// One job's request, answer and place in the results. Returns the result in words. `kept_id`: of the sequence that the
// job before it left, and of the one that this one leaves.
absl::StatusOr<std::string> RunJob(const EvalPlan& plan, const EvalJob& job, v1::GenerateRequest request,
                                   const EvalAsk& ask, EvalProgress& progress, std::string& kept_id,
                                   SettingResult& results) {
  if (job.question != EvalJob::kPerplexity && plan.questions[job.question].continues) {
    if (kept_id.empty()) {
      return absl::InternalError("the cluster did not keep the sequence of the question before");
    }
    request.set_continue_request_id(kept_id);
  }
  TRIBUTARY_ASSIGN_OR_RETURN(const GenerateResult answer,
                             ask(request, [&](double fraction) { progress.Show(fraction); }));
  kept_id = answer.summary.kept().request_id();
  if (job.question == EvalJob::kPerplexity) {
    TRIBUTARY_ASSIGN_OR_RETURN(results.perplexity, ReadPerplexity(plan, answer));
    return fmt::format("{:.4f}", results.perplexity->perplexity);
  }
  TRIBUTARY_ASSIGN_OR_RETURN(NeedleResult needle, ReadNeedle(plan, job.question, answer));
  results.needles.push_back(std::move(needle));
  results.needle_heads.Add(answer.summary);
  return std::string(results.needles.back().found ? "found" : "missed");
}

std::string FormatEta(double eta_s) {
  if (eta_s < 0) return "?";
  if (eta_s < 90) return fmt::format("{:.0f} s", eta_s);
  return fmt::format("{:.0f} min", eta_s / 60);
}

}  // namespace

EvalProgress::EvalProgress(std::FILE* out, const Clock* clock, double total_weight)
    : out_(out),
      clock_(clock),
      begin_ns_(clock->NowNs()),
      total_weight_(total_weight),
      is_terminal_(isatty(fileno(out)) != 0),
      bar_(out, true) {}

void EvalProgress::BeginJob(std::string what, double weight) {
  what_ = std::move(what);
  job_weight_ = weight;
  job_begin_ns_ = clock_->NowNs();
  Show(0);
}

void EvalProgress::Show(double fraction) {
  job_fraction_ = std::clamp(fraction, 0.0, 1.0);
  if (!is_terminal_) return;
  bar_.Show((done_weight_ + job_weight_ * job_fraction_) / total_weight_,
            fmt::format("{} left; {}", FormatEta(EtaS()), what_));
}

void EvalProgress::EndJob(const std::string& result) {
  done_weight_ += job_weight_;
  job_weight_ = 0;
  if (is_terminal_) return;
  fmt::print(out_, "[{:3.0f} %, {} left] {}: {} ({})\n", 100 * done_weight_ / total_weight_, FormatEta(EtaS()), what_,
             result, FormatSeconds(SecondsFromNs(clock_->NowNs() - job_begin_ns_)));
  std::fflush(out_);
}

double EvalProgress::EtaS() const {
  const double done = done_weight_ + job_weight_ * job_fraction_;
  if (done <= 0) return -1;
  const double elapsed_s = SecondsFromNs(clock_->NowNs() - begin_ns_);
  return elapsed_s * std::max(0.0, total_weight_ - done) / done;
}

void RunEval(const EvalPlan& plan, const EvalAsk& ask, std::FILE* progress_out, const Clock* clock, EvalReport* report,
             const std::function<absl::Status()>& on_setting) {
  // A request is as large as its prompt: built to be weighed, and again to be sent.
  double total_weight = 0;
  for (const EvalJob& job : plan.jobs) {
    const auto request = BuildEvalRequest(plan, job);
    if (request.ok()) total_weight += JobWeight(*request);
  }
  EvalProgress progress(progress_out, clock, total_weight);
  std::string kept_id;
  for (size_t i = 0; i < plan.jobs.size(); ++i) {
    const EvalJob& job = plan.jobs[i];
    report->results.resize(job.setting + 1);
    const auto request = BuildEvalRequest(plan, job);
    absl::Status status = request.status();
    if (status.ok()) {
      progress.BeginJob(JobName(plan, job), JobWeight(*request));
      const auto result = RunJob(plan, job, *request, ask, progress, kept_id, report->results.back());
      if (result.ok()) progress.EndJob(*result);
      status = result.status();
    }
    if (!status.ok()) {
      report->status =
          absl::Status(status.code(), fmt::format("{}: {}", JobName(plan, job), std::string(status.message())));
      return;
    }
    const bool is_last = i + 1 == plan.jobs.size() || plan.jobs[i + 1].setting != job.setting;
    if (is_last && on_setting) report->status = on_setting();
    if (!report->status.ok()) return;
  }
}

}  // namespace tributary
