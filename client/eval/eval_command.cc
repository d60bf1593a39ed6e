#include "client/eval/eval_command.h"

#include <cstdio>
#include <fstream>

#include "base/clock.h"
#include "base/status.h"
#include "client/eval/eval_runner.h"
#include "fmt/format.h"
#include "model/byte_text.h"

namespace tributary {
namespace {

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(fmt::format("cannot write '{}'", path));
}

absl::StatusOr<GenerateResult> Ask(Client& client, const v1::GenerateRequest& request,
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
    result.tokens.insert(result.tokens.end(), chunk.tokens().begin(), chunk.tokens().end());
    result.logprobs.insert(result.logprobs.end(), chunk.logprobs().begin(), chunk.logprobs().end());
    const double done = static_cast<double>(result.tokens.size()) / request.max_tokens();
    on_progress(prefill_share + (1 - prefill_share) * done);
  };
  TRIBUTARY_ASSIGN_OR_RETURN(result.summary, client.Generate(request, handlers));
  return result;
}

}  // namespace

absl::Status EvalOnCluster(Client& client, const EvalPlan& plan, Interrupt& stop) {
  EvalReport report;
  TRIBUTARY_ASSIGN_OR_RETURN(report.cluster, client.Status());
  if (report.cluster.geometry().vocab_size() == 0) {
    return absl::UnavailableError(fmt::format(
        "the cluster at {} has no GPU worker yet; see 'tributary status'", client.address()));
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckModel(plan, report.cluster.geometry().vocab_size()));
  stop.SetHandler([&client] { client.CancelAll(); });
  const RealClock clock;
  RunEval(
      plan,
      [&client](const v1::GenerateRequest& request, const std::function<void(double)>& progress) {
        return Ask(client, request, progress);
      },
      stderr, &clock, &report);
  stop.SetHandler({});
  fmt::print("{}", EvalTable(plan, report));
  std::fflush(stdout);
  if (!plan.options.json_file.empty()) {
    TRIBUTARY_RETURN_IF_ERROR(
        WriteFile(plan.options.json_file, DumpJson(EvalJson(plan, report)) + "\n"));
  }
  if (!plan.options.csv_file.empty()) {
    TRIBUTARY_RETURN_IF_ERROR(WriteFile(plan.options.csv_file, EvalCsv(plan, report)));
  }
  return report.status;
}

}  // namespace tributary
