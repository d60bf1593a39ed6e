#include "client/cli/commands.h"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "base/status.h"
#include "client/api/client.h"
#include "client/api/request_builder.h"
#include "client/cli/local_cluster.h"
#include "client/cli/local_target.h"
#include "client/eval/eval_command.h"
#include "client/terminal/progress.h"
#include "client/terminal/report.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/byte_text.h"

namespace tributary {
namespace {

using RequestBuilder = absl::StatusOr<v1::GenerateRequest> (*)(const RequestOptions&, uint32_t);

int Fail(const absl::Status& status) {
  std::fflush(stdout);
  fmt::print(stderr, "tributary: {} [{}]\n", std::string(status.message()),
             std::string(absl::StatusCodeToString(status.code())));
  return kExitError;
}

void PrintTokens(const v1::GenerateEvent::TokenChunk& chunk, bool is_byte_vocab) {
  if (is_byte_vocab) {
    const std::string text = BytesFromTokens({chunk.tokens().data(), static_cast<size_t>(chunk.tokens_size())});
    std::fwrite(text.data(), 1, text.size(), stdout);
  } else {
    for (const uint32_t token : chunk.tokens()) fmt::print("{} ", token);
  }
  std::fflush(stdout);
}

struct Ask {
  const RequestOptions& options;
  RequestBuilder build;
  bool stream;           // tokens to stdout as they come
  std::string_view did;  // "generated", "scored": for the progress bar
};

// Sends the request and follows its stream.
absl::StatusOr<GenerateResult> AskCluster(Client& client, const Ask& ask, Interrupt& stop) {
  TRIBUTARY_ASSIGN_OR_RETURN(const v1::StatusResponse status, client.Status());
  if (status.geometry().vocab_size() == 0) {
    return absl::UnavailableError(
        fmt::format("the cluster at {} has no GPU worker yet; see 'tributary status'", client.address()));
  }
  GenerateResult result;
  result.is_byte_vocab = status.geometry().vocab_size() == kByteVocab;
  TRIBUTARY_ASSIGN_OR_RETURN(const v1::GenerateRequest request, ask.build(ask.options, status.geometry().vocab_size()));

  const std::string prefill_text = fmt::format("prefill of {} tokens", FormatCount(request.prompt_tokens_size()));
  PrefillBar bar(stderr, !ask.options.json);
  bar.Show(0, prefill_text);
  GenerateHandlers handlers;
  handlers.on_prefill = [&](const v1::GenerateEvent::PrefillProgress& progress) {
    bar.Show(progress.fraction(), prefill_text);
  };
  handlers.on_tokens = [&](const v1::GenerateEvent::TokenChunk& chunk) {
    Append(chunk, &result);
    if (ask.stream) {
      bar.Clear();
      PrintTokens(chunk, result.is_byte_vocab);
    } else {
      bar.Show(static_cast<double>(result.tokens.size()) / request.max_tokens(),
               fmt::format("{} {} of {} tokens", ask.did, FormatCount(result.tokens.size()),
                           FormatCount(request.max_tokens())));
    }
  };
  stop.SetHandler([&client] { client.CancelAll(); });
  auto summary = client.Generate(request, handlers);
  stop.SetHandler({});
  TRIBUTARY_RETURN_IF_ERROR(summary.status());
  result.summary = *std::move(summary);
  return result;
}

absl::Status GenerateAndPrint(Client& client, const RequestOptions& options, Interrupt& stop) {
  TRIBUTARY_ASSIGN_OR_RETURN(const GenerateResult result,
                             AskCluster(client, {options, &BuildGenerateRequest, !options.json, "generated"}, stop));
  if (options.json) {
    fmt::print("{}\n", DumpJson(GenerateJson(result)));
  } else {
    fmt::print("\n\n[{}]\n{}", result.summary.finish_reason(), SummaryTable(result.summary));
  }
  return absl::OkStatus();
}

absl::Status ScoreAndPrint(Client& client, const RequestOptions& options, Interrupt& stop) {
  TRIBUTARY_ASSIGN_OR_RETURN(const GenerateResult result,
                             AskCluster(client, {options, &BuildScoreRequest, false, "scored"}, stop));
  if (options.json) {
    fmt::print("{}\n", DumpJson(ScoreJson(result)));
    return absl::OkStatus();
  }
  const double nll = MeanNll(result);
  fmt::print("nll_mean {:.6f} over {} tokens (perplexity {:.4f})\n{}", nll, FormatCount(result.logprobs.size()),
             std::exp(nll), SummaryTable(result.summary));
  return absl::OkStatus();
}

using ClusterWork = std::function<absl::Status(Client&)>;

// Up, work, down.
absl::Status WithCluster(const ClusterOptions& cluster_options, Interrupt& stop, const ClusterWork& work) {
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<LocalCluster> cluster,
                             LocalCluster::Start(cluster_options, [&stop] { return stop.stop_requested(); }));
  Client client(cluster->coordinator());
  absl::Status worked = work(client);
  if (!worked.ok()) {
    std::string message(worked.message());
    for (const std::string& death : cluster->ReportDeaths()) message += fmt::format("; {}", death);
    worked = absl::Status(worked.code(), message);
  }
  const absl::Status stopped = cluster->Stop();
  return worked.ok() ? stopped : worked;
}

using RequestWork = absl::Status (*)(Client&, const RequestOptions&, Interrupt&);

absl::Status RequestWithCluster(const ClusterOptions& cluster, const RequestOptions& request, RequestWork work,
                                Interrupt& stop) {
  TRIBUTARY_RETURN_IF_ERROR(CheckInputFiles(request));
  return WithCluster(cluster, stop, [&](Client& client) { return work(client, request, stop); });
}

class RemoteTarget : public EvalTarget {
 public:
  explicit RemoteTarget(const std::string& coordinator) : client_(coordinator) {}

  Client& client() override { return client_; }
  absl::Status Renew(const absl::Status& error) override {
    const absl::Status there = client_.Status().status();
    return there.ok() ? there : error;
  }
  void CancelAll() override { client_.CancelAll(); }

 private:
  Client client_;
};

absl::Status Eval(const EvalOptions& options, Interrupt& stop) {
  TRIBUTARY_ASSIGN_OR_RETURN(const EvalPlan plan, MakeEvalPlan(options));
  TRIBUTARY_RETURN_IF_ERROR(CheckOutputs(options));
  if (options.coordinator.empty()) {
    LocalTarget target(options.cluster, [&stop] { return stop.stop_requested(); });
    TRIBUTARY_RETURN_IF_ERROR(target.Start());
    const absl::Status worked = EvalOnCluster(target, plan, stop);
    const absl::Status stopped = target.Stop();
    return worked.ok() ? stopped : worked;
  }
  RemoteTarget target(options.coordinator);
  return EvalOnCluster(target, plan, stop);
}

absl::Status WritePortFile(const LocalCluster& cluster, const std::string& path) {
  nlohmann::ordered_json object;
  object["coordinator"] = cluster.coordinator();
  object["log_dir"] = cluster.log_dir();
  nlohmann::ordered_json processes = nlohmann::ordered_json::array();
  for (size_t i = 0; i < cluster.children().size(); ++i) {
    processes.push_back({{"name", cluster.children()[i]->name()},
                         {"pid", cluster.children()[i]->pid()},
                         {"listen", cluster.addresses(i).listen},
                         {"metrics", cluster.addresses(i).metrics}});
  }
  object["processes"] = std::move(processes);
  const std::string temporary = path + ".tmp";  // readers never see half a file
  std::ofstream file(temporary);
  file << object.dump(1) << "\n";
  file.close();
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  if (!file || error) return absl::UnavailableError(fmt::format("cannot write the port file '{}'", path));
  return absl::OkStatus();
}

void PrintCluster(const LocalCluster& cluster, double seconds) {
  for (size_t i = 0; i < cluster.children().size(); ++i) {
    const ChildProcess& child = *cluster.children()[i];
    fmt::print("  {:<12} {:<22} pid {:<8} http://{}/metrics\n", child.name(), cluster.addresses(i).listen, child.pid(),
               cluster.addresses(i).metrics);
  }
  fmt::print(
      "ready in {:.1f} s; model {}; logs in {}\n\n  tributary generate --coordinator {} --prompt "
      "'Once upon a time'\n\n"
      "Ctrl-C stops the cluster.\n",
      seconds, cluster.status_at_start().geometry().model_name(), cluster.log_dir(), cluster.coordinator());
  std::fflush(stdout);
}

absl::Status ClusterUp(const ClusterOptions& options, Interrupt& stop) {
  const auto begin = std::chrono::steady_clock::now();
  fmt::print("starting 1 coordinator, {} GPU worker{} (device {}), {} CPU attention services\n", options.devices.size(),
             options.devices.size() == 1 ? "" : "s", fmt::join(options.devices, ", "), options.cpu_nodes);
  std::fflush(stdout);
  auto started = LocalCluster::Start(options, [&stop] { return stop.stop_requested(); });
  if (absl::IsCancelled(started.status())) return absl::OkStatus();
  TRIBUTARY_RETURN_IF_ERROR(started.status());
  LocalCluster& cluster = **started;
  PrintCluster(cluster, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  if (!options.port_file.empty()) TRIBUTARY_RETURN_IF_ERROR(WritePortFile(cluster, options.port_file));
  while (!stop.stop_requested()) {
    for (const std::string& line : cluster.ReportDeaths()) fmt::print(stderr, "tributary: {}\n", line);
    if (!cluster.coordinator_runs()) {
      return absl::UnavailableError("the coordinator has ended, so the cluster is stopped");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  fmt::print("stopping; running requests may end, Ctrl-C again stops at once\n");
  std::fflush(stdout);
  return cluster.Stop();
}

absl::Status PrintStatus(const StatusCommand& command) {
  Client client(command.coordinator);
  TRIBUTARY_ASSIGN_OR_RETURN(const v1::StatusResponse status, client.Status());
  fmt::print("{}", command.json ? DumpJson(StatusJson(status)) + "\n" : StatusTable(status));
  return absl::OkStatus();
}

struct Runner {
  Interrupt& stop;

  absl::Status operator()(const ClusterUpCommand& command) { return ClusterUp(command.cluster, stop); }
  absl::Status operator()(const GenerateCommand& command) {
    Client client(command.coordinator);
    return GenerateAndPrint(client, command.request, stop);
  }
  absl::Status operator()(const RunCommand& command) {
    return RequestWithCluster(command.cluster, command.request, &GenerateAndPrint, stop);
  }
  absl::Status operator()(const ScoreCommand& command) {
    if (command.coordinator.empty()) return RequestWithCluster(command.cluster, command.request, &ScoreAndPrint, stop);
    Client client(command.coordinator);
    return ScoreAndPrint(client, command.request, stop);
  }
  absl::Status operator()(const EvalCommand& command) { return Eval(command.options, stop); }
  absl::Status operator()(const StatusCommand& command) { return PrintStatus(command); }
  absl::Status operator()(const PrintCommand& command) {
    fmt::print("{}", command.text);
    return absl::OkStatus();
  }
};

}  // namespace

int RunCommandLine(const Command& command, Interrupt& stop) {
  const absl::Status status = std::visit(Runner{stop}, command);
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace tributary
