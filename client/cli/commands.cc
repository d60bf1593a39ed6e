#include "client/cli/commands.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/outside_text.h"
#include "base/status.h"
#include "client/api/client.h"
#include "client/cli/ask.h"
#include "client/cli/chat.h"
#include "client/cli/cluster_up.h"
#include "client/cli/flag_names.h"
#include "client/cli/local_cluster.h"
#include "client/cli/local_target.h"
#include "client/cli/model_dir.h"
#include "client/cli/model_hub.h"
#include "client/eval/eval_command.h"
#include "client/terminal/output.h"
#include "client/terminal/report.h"
#include "fmt/format.h"

namespace tributary {
namespace {

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

using RequestWork = absl::Status (*)(Client&, PreparedRequest&, Interrupt&);

absl::Status RequestWithCluster(const ClusterOptions& cluster, const RequestOptions& options, RequestWork work,
                                Interrupt& stop) {
  TRIBUTARY_RETURN_IF_ERROR(CheckModelDir(cluster.model_dir));
  TRIBUTARY_ASSIGN_OR_RETURN(PreparedRequest request, Prepare(options, cluster.model_dir, stop));
  return WithCluster(cluster, stop, [&](Client& client) { return work(client, request, stop); });
}

absl::Status RequestOfRunning(const std::string& coordinator, const TlsFiles& tls, const std::string& model_dir,
                              const RequestOptions& options, RequestWork work, Interrupt& stop) {
  TRIBUTARY_ASSIGN_OR_RETURN(const RpcCredentials credentials, ClientCredentials(tls));
  TRIBUTARY_ASSIGN_OR_RETURN(PreparedRequest request, Prepare(options, model_dir, stop));
  Client client(coordinator, RpcOptions{.credentials = credentials});
  return work(client, request, stop);
}

class RemoteTarget : public EvalTarget {
 public:
  RemoteTarget(const std::string& coordinator, const RpcCredentials& credentials)
      : client_(coordinator, RpcOptions{.credentials = credentials}) {}

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
  if (options.coordinator.empty()) TRIBUTARY_RETURN_IF_ERROR(CheckModelDir(options.cluster.model_dir));
  TRIBUTARY_ASSIGN_OR_RETURN(const RpcCredentials credentials, ClientCredentials(options.tls));
  TRIBUTARY_RETURN_IF_ERROR(CheckOutputs(options));
  absl::StatusOr<EvalPlan> made;
  {
    const ExitOnSignal at_once(stop);
    made = MakeEvalPlan(options);
  }
  TRIBUTARY_ASSIGN_OR_RETURN(const EvalPlan plan, std::move(made));
  if (options.coordinator.empty()) {
    LocalTarget target(options.cluster, [&stop] { return stop.stop_requested(); });
    TRIBUTARY_RETURN_IF_ERROR(target.Start());
    const absl::Status worked = EvalOnCluster(target, plan, stop);
    const absl::Status stopped = target.Stop();
    return worked.ok() ? stopped : worked;
  }
  RemoteTarget target(options.coordinator, credentials);
  return EvalOnCluster(target, plan, stop);
}

absl::Status Chat(const ChatCommand& command, Interrupt& stop) {
  if (command.coordinator.empty()) TRIBUTARY_RETURN_IF_ERROR(CheckModelDir(command.cluster.model_dir));
  TRIBUTARY_ASSIGN_OR_RETURN(const RpcCredentials credentials, ClientCredentials(command.tls));
  absl::StatusOr<std::unique_ptr<TextCodec>> codec;
  {
    const ExitOnSignal at_once(stop);
    codec = MakeChatCodec(command);
  }
  TRIBUTARY_RETURN_IF_ERROR(codec.status());
  const auto chat = [&](Client& client) { return ChatWith(client, command, *std::move(codec), stop); };
  if (command.coordinator.empty()) return WithCluster(command.cluster, stop, chat);
  Client client(command.coordinator, RpcOptions{.credentials = credentials});
  return chat(client);
}

absl::Status PrintStatus(const StatusCommand& command, Interrupt& stop) {
  constexpr const char* kClearScreen = "\033[H\033[2J";
  TRIBUTARY_ASSIGN_OR_RETURN(const RpcCredentials credentials, ClientCredentials(command.tls));
  Client client(command.coordinator, RpcOptions{.credentials = credentials});
  while (true) {
    TRIBUTARY_ASSIGN_OR_RETURN(const v1::StatusResponse status, client.Status());
    const std::string clear = command.watch_s > 0 && isatty(STDOUT_FILENO) != 0 ? kClearScreen : "";
    PrintOut("{}{}", clear, command.json ? DumpJson(StatusJson(status)) + "\n" : StatusTable(status));
    const auto next = std::chrono::steady_clock::now() + std::chrono::duration<double>(command.watch_s);
    while (!stop.stop_requested() && std::chrono::steady_clock::now() < next) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    if (command.watch_s <= 0 || stop.stop_requested() || !OutStatus().ok()) return OutStatus();
  }
}

struct Runner {
  Interrupt& stop;

  absl::Status operator()(const ClusterUpCommand& command) { return ClusterUp(command.cluster, stop); }
  absl::Status operator()(const GenerateCommand& command) {
    return RequestOfRunning(command.coordinator, command.tls, command.model_dir, command.request, &GenerateAndPrint,
                            stop);
  }
  absl::Status operator()(const RunCommand& command) {
    return RequestWithCluster(command.cluster, command.request, &GenerateAndPrint, stop);
  }
  absl::Status operator()(const ScoreCommand& command) {
    if (command.coordinator.empty()) return RequestWithCluster(command.cluster, command.request, &ScoreAndPrint, stop);
    return RequestOfRunning(command.coordinator, command.tls, "", command.request, &ScoreAndPrint, stop);
  }
  absl::Status operator()(const ChatCommand& command) { return Chat(command, stop); }
  absl::Status operator()(const EvalCommand& command) { return Eval(command.options, stop); }
  absl::Status operator()(const StatusCommand& command) { return PrintStatus(command, stop); }
  absl::Status operator()(const PrintCommand& command) {
    WriteOut(command.text);
    return OutStatus();
  }
};

// Makes a folder of a model's name on the Hub where a cluster is started for it.
struct HubFetcher {
  absl::Status operator()(ClusterUpCommand& command) { return FetchHubModel("", command.cluster.model_dir); }
  absl::Status operator()(RunCommand& command) {
    return FetchHubModel(command.request.python, command.cluster.model_dir);
  }
  absl::Status operator()(ScoreCommand& command) {
    return FetchHubModel(command.request.python, command.cluster.model_dir);
  }
  absl::Status operator()(ChatCommand& command) {
    return FetchHubModel(command.request.python, command.cluster.model_dir);
  }
  absl::Status operator()(EvalCommand& command) { return FetchHubModel("", command.options.cluster.model_dir); }
  template <typename Command>
  absl::Status operator()(Command&) {
    return absl::OkStatus();
  }
};

struct AsksForJson {
  bool operator()(const GenerateCommand& command) const { return command.request.json; }
  bool operator()(const RunCommand& command) const { return command.request.json; }
  bool operator()(const ScoreCommand& command) const { return command.request.json; }
  bool operator()(const StatusCommand& command) const { return command.json; }
  template <typename Command>
  bool operator()(const Command&) const {
    return false;
  }
};

}  // namespace

int Fail(const absl::Status& status, bool as_json) {
  const absl::Status named(status.code(), NameFlags(Printable(std::string(status.message()))));
  if (as_json) PrintOut("{}\n", DumpJson(ErrorJson(named)));
  PrintErr("tributary: {} [{}]\n", std::string(named.message()), std::string(absl::StatusCodeToString(named.code())));
  return kExitError;
}

int FailUsage(const absl::Status& status, const std::vector<std::string>& words) {
  const bool as_json = std::find(words.begin(), words.end(), "--json") != words.end() && words.front() != "eval";
  if (as_json) PrintOut("{}\n", DumpJson(ErrorJson(status)));
  PrintErr("tributary: {}\nRun 'tributary --help' or 'tributary COMMAND --help' for the flags.\n",
           std::string(status.message()));
  return kExitUsage;
}

int RunCommandLine(Command command, Interrupt& stop) {
  absl::Status status;
  {
    const ExitOnSignal at_once(stop);
    status = std::visit(HubFetcher{}, command);
  }
  if (status.ok()) status = std::visit(Runner{stop}, command);
  const bool outlives_its_reader = std::holds_alternative<ClusterUpCommand>(command);
  if (OutReaderHasGone()) {
    if (outlives_its_reader && status.ok()) return kExitOk;
    if (!outlives_its_reader) return kExitReaderGone;
  }
  if (status.ok()) status = OutStatus();
  return status.ok() ? kExitOk : Fail(status, std::visit(AsksForJson{}, command));
}

}  // namespace tributary
