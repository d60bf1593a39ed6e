#include "client/eval/eval_command.h"

#include "base/clock.h"
#include "base/status.h"
#include "base/whole_file.h"
#include "client/eval/eval_runner.h"
#include "client/terminal/output.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// Nothing for an empty path.
absl::Status WriteFile(const std::string& path, const std::string& text) {
  return path.empty() ? absl::OkStatus() : WriteWholeFile(path, text);
}

absl::Status WriteResults(const EvalPlan& plan, const EvalReport& report) {
  const absl::Status json = WriteFile(plan.options.json_file, DumpJson(EvalJson(plan, report)) + "\n");
  const absl::Status csv = WriteFile(plan.options.csv_file, EvalCsv(plan, report));  // the other may be lost, not both
  return json.ok() ? csv : json;
}

absl::StatusOr<GenerateResult> AskClient(Client& client, const v1::GenerateRequest& request,
                                         const std::function<void(double)>& on_progress) {
  // The share of the work that is prefill, by the same weights as the progress itself.
  v1::GenerateRequest prefill = request;
  prefill.set_max_tokens(0);
  const double prefill_share = JobWeight(prefill) / JobWeight(request);
  GenerateResult result;
  GenerateHandlers handlers;
  handlers.on_prefill = [&](const v1::GenerateEvent::PrefillProgress& progress) {
    on_progress(prefill_share * progress.fraction());
  };
  handlers.on_tokens = [&](const v1::GenerateEvent::TokenChunk& chunk) {
    Append(chunk, &result);
    const double done = static_cast<double>(result.tokens.size()) / request.max_tokens();
    on_progress(prefill_share + (1 - prefill_share) * done);
  };
  TRIBUTARY_ASSIGN_OR_RETURN(result.summary, client.Generate(request, handlers));
  return result;
}

}  // namespace

absl::Status CheckOutputs(const EvalOptions& options) {
  for (const std::string& path : {options.json_file, options.csv_file}) {
    if (!path.empty()) TRIBUTARY_RETURN_IF_ERROR(CheckWritable(path));
  }
  return absl::OkStatus();
}

namespace {

EvalAsk AskTarget(EvalTarget& target) {
  return [&target](const v1::GenerateRequest& request, const std::function<void(double)>& progress) {
    return AskClient(target.client(), request, progress);
  };
}

// Says how much there is to do, and how long it takes by a short request.
absl::Status SayDuration(const EvalPlan& plan, const EvalJournal* journal, const EvalAsk& ask, EvalRates& rates) {
  size_t num_done = 0;
  for (size_t first = 0; journal != nullptr && first < plan.jobs.size(); first = EndOfChain(plan, first)) {
    if (journal->Has(first)) num_done += EndOfChain(plan, first) - first;
  }
  for (const std::string& note : plan.notes) PrintErr("{}\n", note);
  const std::string done = num_done == 0 ? "" : fmt::format(", {} of them answered before", num_done);
  TRIBUTARY_ASSIGN_OR_RETURN(const v1::GenerateRequest request, RatesRequest(plan));
  const absl::StatusOr<GenerateResult> answer = ask(request, [](double) {});
  if (absl::IsCancelled(answer.status())) return answer.status();
  if (answer.ok()) rates = ReadRates(request, answer->summary);
  const bool is_known = rates.prefill_s > 0 && rates.decode_s > 0;
  const std::string time = is_known ? FormatDuration(PlanCost(plan, journal, rates)) : std::string("a time not known");
  PrintErr("{} jobs in {} settings{}: about {}, by a dense request of {} and {} tokens\n", plan.jobs.size(),
           plan.settings.size(), done, time, request.prompt_tokens_size(), request.max_tokens());
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<EvalJournal>> OpenJournal(const EvalPlan& plan, const v1::StatusResponse& cluster) {
  const std::string& json_file = plan.options.json_file;
  if (json_file.empty()) return std::unique_ptr<EvalJournal>();
  if (plan.options.restart) EvalJournal::Remove(JournalPath(json_file));
  return EvalJournal::Open(JournalPath(json_file), PlanFingerprint(plan, cluster));
}

}  // namespace

std::string JournalPath(const std::string& json_file) { return json_file + ".journal"; }

absl::Status EvalOnCluster(EvalTarget& target, EvalPlan plan, Interrupt& stop) {
  EvalReport report;
  TRIBUTARY_ASSIGN_OR_RETURN(report.cluster, target.client().Status());
  if (report.cluster.geometry().vocab_size() == 0) {
    return absl::UnavailableError(
        fmt::format("the cluster at {} has no GPU worker yet; see 'tributary status'", target.client().address()));
  }
  TRIBUTARY_RETURN_IF_ERROR(FitToModel(report.cluster.geometry(), &plan));
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<EvalJournal> journal, OpenJournal(plan, report.cluster));
  const RealClock clock;
  EvalRun run{.ask = AskTarget(target),
              .renew = [&target](const absl::Status& error) { return target.Renew(error); },
              .retries = plan.options.retries,
              .journal = journal.get(),
              .rates = {},
              .clock = &clock,
              .on_setting = [&] { return WriteResults(plan, report); }};
  stop.SetHandler([&target] { target.CancelAll(); });
  report.status = SayDuration(plan, journal.get(), run.ask, run.rates);
  if (report.status.ok()) RunEval(plan, run, &report);
  stop.SetHandler({});
  WriteOut(EvalTable(plan, report));
  const absl::Status written = WriteResults(plan, report);
  if (!report.status.ok()) return report.status;
  if (written.ok() && journal != nullptr) EvalJournal::Remove(JournalPath(plan.options.json_file));
  return written;
}

}  // namespace tributary
