#include "client/eval/eval_command.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "base/clock.h"
#include "base/status.h"
#include "client/eval/eval_runner.h"
#include "fmt/format.h"
#include "model/byte_text.h"

namespace tributary {
namespace {

absl::Status CannotWrite(const std::string& path) {
  return absl::UnavailableError(fmt::format("cannot write '{}': {}", path, std::strerror(errno)));
}

// Readers never see half a file. Nothing for an empty path.
absl::Status WriteFile(const std::string& path, const std::string& text) {
  if (path.empty()) return absl::OkStatus();
  const std::string temporary = path + ".tmp";
  std::ofstream file(temporary, std::ios::binary);
  file << text;
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) return CannotWrite(path);
  return absl::OkStatus();
}

absl::Status WriteResults(const EvalPlan& plan, const EvalReport& report) {
  TRIBUTARY_RETURN_IF_ERROR(WriteFile(plan.options.json_file, DumpJson(EvalJson(plan, report)) + "\n"));
  return WriteFile(plan.options.csv_file, EvalCsv(plan, report));
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
    if (path.empty()) continue;
    const std::string temporary = path + ".tmp";  // earlier results stay until there are new ones
    if (!std::ofstream(temporary)) return CannotWrite(path);
    std::remove(temporary.c_str());
  }
  return absl::OkStatus();
}

absl::Status EvalOnCluster(Client& client, EvalPlan plan, Interrupt& stop) {
  EvalReport report;
  TRIBUTARY_ASSIGN_OR_RETURN(report.cluster, client.Status());
  if (report.cluster.geometry().vocab_size() == 0) {
    return absl::UnavailableError(
        fmt::format("the cluster at {} has no GPU worker yet; see 'tributary status'", client.address()));
  }
  TRIBUTARY_RETURN_IF_ERROR(FitToModel(report.cluster.geometry(), &plan));
  stop.SetHandler([&client] { client.CancelAll(); });
  const RealClock clock;
  RunEval(
      plan,
      [&client](const v1::GenerateRequest& request, const std::function<void(double)>& progress) {
        return Ask(client, request, progress);
      },
      stderr, &clock, &report, [&] { return WriteResults(plan, report); });
  stop.SetHandler({});
  fmt::print("{}", EvalTable(plan, report));
  std::fflush(stdout);
  const absl::Status written = WriteResults(plan, report);
  return report.status.ok() ? written : report.status;
}

}  // namespace tributary
