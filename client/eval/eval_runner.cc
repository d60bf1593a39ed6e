#include "client/eval/eval_runner.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// Of the request that measures what jobs cost.
constexpr size_t kRatePromptTokens = 1024;
constexpr uint32_t kRateDecodeTokens = 16;

std::string JobName(const EvalPlan& plan, const EvalJob& job) {
  const EvalSetting& setting = plan.settings[job.setting];
  const std::string name = fmt::format("{}, window {}: ", SettingName(setting), setting.window_tokens);
  switch (job.kind) {
    case EvalJobKind::kPerplexity:
      return name + fmt::format("perplexity of {} tokens after {}{}", plan.options.decode_tokens,
                                plan.options.prefill_tokens,
                                plan.texts.size() > 1 ? fmt::format(" of {}", plan.texts[job.index].name) : "");
    case EvalJobKind::kDrift:
      return name + fmt::format("drift over {} tokens after {}", plan.drift_tokens, plan.options.prefill_tokens);
    case EvalJobKind::kQuestion:
      break;
  }
  const TaskSpec& spec = plan.questions[job.index].spec;
  return name + fmt::format("{} in {} tokens", spec.task->name, spec.length_tokens);
}

// Sent again, these fail again.
bool IsFinal(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status) || absl::IsOutOfRange(status) ||
         absl::IsUnimplemented(status) || absl::IsCancelled(status);
}

std::string FormatEta(double eta_s) { return eta_s < 0 ? "?" : FormatDuration(eta_s); }

}  // namespace

std::string FormatDuration(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 5400) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

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
  std::fputs(fmt::format("[{:3.0f} %, {} left] {}: {} ({})\n", 100 * done_weight_ / total_weight_, FormatEta(EtaS()),
                         what_, result, FormatSeconds(SecondsFromNs(clock_->NowNs() - job_begin_ns_)))
                 .c_str(),
             out_);
  std::fflush(out_);
}

double EvalProgress::EtaS() const {
  const double done = done_weight_ + job_weight_ * job_fraction_;
  if (done <= 0) return -1;
  const double elapsed_s = SecondsFromNs(clock_->NowNs() - begin_ns_);
  return elapsed_s * std::max(0.0, total_weight_ - done) / done;
}

absl::StatusOr<v1::GenerateRequest> RatesRequest(const EvalPlan& plan) {
  EvalPlan probe;
  probe.options = plan.options;
  probe.settings = {plan.settings.front()};
  std::vector<uint32_t> tokens;
  if (!plan.texts.empty()) {
    tokens = plan.texts.front().tokens;
  } else if (!plan.questions.empty()) {
    tokens = plan.questions.front().prompt.text_tokens;
  }
  tokens.resize(std::min(tokens.size(), kRatePromptTokens + kRateDecodeTokens));
  probe.options.decode_tokens = std::min<uint32_t>(kRateDecodeTokens, static_cast<uint32_t>(tokens.size() / 2));
  probe.options.prefill_tokens = static_cast<uint32_t>(tokens.size()) - probe.options.decode_tokens;
  probe.texts = {{"", std::move(tokens)}};
  return BuildEvalRequest(probe, {});
}

EvalRates ReadRates(const v1::GenerateRequest& request, const v1::GenerateEvent::Summary& summary) {
  v1::GenerateRequest prompt = request;
  prompt.set_max_tokens(0);
  EvalRates rates{.prefill_s = summary.prefill_s() / std::max(1.0, JobWeight(prompt)), .decode_s = 0};
  if (request.max_tokens() > 1) rates.decode_s = summary.decode_s() / (request.max_tokens() - 1);
  return rates;
}

double JobCost(const v1::GenerateRequest& request, const EvalRates& rates) {
  if (rates.prefill_s <= 0 || rates.decode_s <= 0) return JobWeight(request);
  v1::GenerateRequest prompt = request;
  prompt.set_max_tokens(0);
  return JobWeight(prompt) * rates.prefill_s + request.max_tokens() * rates.decode_s;
}

double PlanCost(const EvalPlan& plan, const EvalJournal* journal, const EvalRates& rates) {
  double cost = 0;
  for (size_t first = 0; first < plan.jobs.size();) {
    const size_t end = EndOfChain(plan, first);
    for (size_t i = first; i < end && (journal == nullptr || !journal->Has(first)); ++i) {
      const auto request = BuildEvalRequest(plan, plan.jobs[i]);
      if (request.ok()) cost += JobCost(*request, rates);
    }
    first = end;
  }
  return cost;
}

namespace {

class Runner {
 public:
  Runner(const EvalPlan& plan, const EvalRun& run, EvalReport& report)
      : plan_(plan),
        run_(run),
        report_(report),
        progress_(run.progress_out, run.clock, PlanCost(plan, run.journal, run.rates)) {}

  void Run() {
    for (size_t first = 0; first < plan_.jobs.size();) {
      const size_t end = EndOfChain(plan_, first);
      report_.results.resize(plan_.jobs[first].setting + 1);
      if (const absl::Status status = RunChain(first, end); !status.ok()) {
        report_.status = absl::Status(
            status.code(), fmt::format("{}: {}", JobName(plan_, plan_.jobs[first]), std::string(status.message())));
        return;
      }
      const bool is_last = end == plan_.jobs.size() || plan_.jobs[end].setting != plan_.jobs[first].setting;
      if (is_last && run_.on_setting) report_.status = run_.on_setting();
      if (!report_.status.ok()) return;
      first = end;
    }
    if (num_failed_ > 0) {
      report_.status =
          absl::Status(first_failure_.code(), fmt::format("{} of {} jobs failed; the first: {}", num_failed_,
                                                          plan_.jobs.size(), std::string(first_failure_.message())));
    }
  }

 private:
  // An error only if the run cannot go on.
  absl::Status RunChain(size_t first, size_t end) {
    if (run_.journal != nullptr && run_.journal->Has(first)) {
      TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<GenerateResult> answers, run_.journal->Read(first));
      return Take(first, answers);
    }
    absl::Status failed;
    for (uint32_t attempt = 0; attempt <= run_.retries; ++attempt) {
      absl::StatusOr<std::vector<GenerateResult>> answers = AskChain(first, end);
      failed = answers.status();
      if (failed.ok()) failed = Take(first, *answers);
      if (failed.ok()) return run_.journal == nullptr ? failed : run_.journal->Append(first, *answers);
      if (absl::IsCancelled(failed)) return failed;
      if (run_.renew) TRIBUTARY_RETURN_IF_ERROR(run_.renew(failed));
      if (IsFinal(failed)) break;
    }
    const std::string name = JobName(plan_, plan_.jobs[first]);
    report_.results.back().failures.push_back({name, std::string(failed.message())});
    if (num_failed_ == 0) {
      first_failure_ = absl::Status(failed.code(), fmt::format("{}: {}", name, std::string(failed.message())));
    }
    num_failed_ += end - first;
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<GenerateResult>> AskChain(size_t first, size_t end) {
    std::vector<GenerateResult> answers;
    std::string kept_id;  // of the sequence that the job before has left
    for (size_t i = first; i < end; ++i) {
      const EvalJob& job = plan_.jobs[i];
      TRIBUTARY_ASSIGN_OR_RETURN(v1::GenerateRequest request, Request(job));
      if (i > first && kept_id.empty()) {
        return absl::InternalError("the cluster did not keep the sequence of the question before");
      }
      if (i > first) request.set_continue_request_id(kept_id);
      progress_.BeginJob(JobName(plan_, job), JobCost(request, run_.rates));
      TRIBUTARY_ASSIGN_OR_RETURN(GenerateResult answer,
                                 run_.ask(request, [this](double fraction) { progress_.Show(fraction); }));
      kept_id = answer.summary.kept().request_id();
      TRIBUTARY_ASSIGN_OR_RETURN(const std::string words, InWords(job, answer));
      progress_.EndJob(words);
      answers.push_back(std::move(answer));
    }
    return answers;
  }

  absl::StatusOr<v1::GenerateRequest> Request(const EvalJob& job) const {
    if (job.kind != EvalJobKind::kDrift || job.setting == 0) return BuildEvalRequest(plan_, job);
    if (!report_.results[0].drift.has_value()) {
      return absl::FailedPreconditionError(
          "there is nothing to go through, for the baseline has failed to generate it");
    }
    return BuildEvalRequest(plan_, job, report_.results[0].drift->tokens);
  }

  // An answer is looked at before the next is asked for.
  absl::StatusOr<std::string> InWords(const EvalJob& job, const GenerateResult& answer) const {
    if (job.kind == EvalJobKind::kDrift) {
      TRIBUTARY_RETURN_IF_ERROR(ReadDrift(plan_, answer).status());
      return std::string("done");
    }
    if (job.kind == EvalJobKind::kPerplexity) {
      TRIBUTARY_ASSIGN_OR_RETURN(const PerplexityResult result, ReadPerplexity(plan_, answer));
      return fmt::format("{:.4f}", result.perplexity);
    }
    TRIBUTARY_ASSIGN_OR_RETURN(const QuestionResult result, ReadQuestion(plan_, job.index, answer));
    const bool has_parts = !plan_.questions[job.index].prompt.fields.empty();
    return has_parts ? fmt::format("{:.0f} %", 100 * result.score) : std::string(result.found ? "found" : "missed");
  }

  // Puts the chain's answers into the results.
  absl::Status Take(size_t first, const std::vector<GenerateResult>& answers) {
    SettingResult& results = report_.results.back();
    const bool is_baseline = plan_.jobs[first].setting == 0;
    const SettingResult& baseline = report_.results.front();
    for (size_t i = 0; i < answers.size(); ++i) {
      const EvalJob& job = plan_.jobs[first + i];
      if (job.kind == EvalJobKind::kPerplexity) {
        TRIBUTARY_ASSIGN_OR_RETURN(PerplexityResult read, ReadPerplexity(plan_, answers[i]));
        read.text = job.index;
        results.text_heads.Add(answers[i].summary);
        results.texts.push_back(std::move(read));
        const auto same = std::find_if(baseline.texts.begin(), baseline.texts.end(),
                                       [&](const PerplexityResult& other) { return other.text == job.index; });
        CompareWith(same == baseline.texts.end() ? nullptr : &*same, plan_.vocab_size, results.texts.back());
        if (results.texts.size() < plan_.texts.size()) continue;
        results.perplexity = Pool(results.texts);
        results.perplexity->heads = results.text_heads;
      } else if (job.kind == EvalJobKind::kDrift) {
        TRIBUTARY_ASSIGN_OR_RETURN(results.drift, ReadDrift(plan_, answers[i]));
        const bool is_there = is_baseline || baseline.drift.has_value();
        CompareWith(is_there ? &*report_.results.front().drift : nullptr, plan_.vocab_size, *results.drift);
      } else {
        TRIBUTARY_ASSIGN_OR_RETURN(QuestionResult read, ReadQuestion(plan_, job.index, answers[i]));
        results.questions.push_back(std::move(read));
        results.question_heads.Add(answers[i].summary);
      }
    }
    return absl::OkStatus();
  }

  const EvalPlan& plan_;
  const EvalRun& run_;
  EvalReport& report_;
  EvalProgress progress_;
  size_t num_failed_ = 0;
  absl::Status first_failure_;
};

}  // namespace

void RunEval(const EvalPlan& plan, const EvalRun& run, EvalReport* report) { Runner(plan, run, *report).Run(); }

}  // namespace tributary
