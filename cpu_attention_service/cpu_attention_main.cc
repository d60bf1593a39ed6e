// tributary-cpu-attention: puts a CPU attention node together and runs it until SIGTERM or SIGINT.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "base/version.h"
#include "cpu_attention_service/attention_metrics.h"
#include "cpu_attention_service/attention_server.h"
#include "cpu_attention_service/cpu_attention_flags.h"
#include "cpu_attention_service/cpu_attention_service.h"
#include "cpu_attention_service/io_loop.h"
#include "cpu_attention_service/node_registration.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "nlohmann/json.hpp"
#include "proto/convert.h"
#include "telemetry/build_info.h"
#include "telemetry/exposer.h"
#include "telemetry/process_collector.h"
#include "transport/ucx/ucx_data_plane.h"

namespace tributary {
namespace {

constexpr char kProcessName[] = "tributary-cpu-attention";

// Why the coordinator refused the node, if it did. Set on the registration's thread.
class Refusal {
 public:
  void Set(const absl::Status& status) {
    {
      std::lock_guard lock(mutex_);
      status_ = status;
    }
    kill(getpid(), SIGTERM);  // wakes main, which waits for signals
  }
  absl::Status Get() const {
    std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  mutable std::mutex mutex_;
  absl::Status status_;
};

uint64_t RandomIncarnation() {
  std::random_device device;
  const uint64_t value = (uint64_t{device()} << 32) | device();
  return value != 0 ? value : 1;  // 0 means unset in messages
}

absl::StatusOr<std::unique_ptr<grpc::Server>> StartGrpc(const CpuAttentionFlags& flags,
                                                        CpuAttentionService* service,
                                                        std::string* address) {
  const size_t colon = flags.listen.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    return absl::InvalidArgumentError(
        fmt::format("--listen is '{}'; it must be HOST:PORT", flags.listen));
  }
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // else a busy port is shared silently
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 8192);
  builder.SetMaxReceiveMessageSize(1 << 20);  // control messages are small
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 2);
  int port = 0;
  builder.AddListeningPort(flags.listen, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(
        fmt::format("cannot listen on {}: the port is taken, or the host is not this machine's; "
                    "choose another --listen",
                    flags.listen));
  }
  const std::string host =
      flags.advertise.empty() ? flags.listen.substr(0, colon) : flags.advertise;
  *address = fmt::format("{}:{}", host, port);
  return server;
}

absl::Status WritePortFile(const std::string& path, const std::string& listen,
                           const std::string& metrics) {
  if (path.empty()) return absl::OkStatus();
  const nlohmann::json addresses = {{"listen", listen}, {"metrics", metrics}, {"pid", getpid()}};
  const std::string unfinished = path + ".tmp";  // so that readers see all of it or nothing
  std::ofstream file(unfinished);
  file << addresses.dump() << "\n";
  file.close();
  if (!file || std::rename(unfinished.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(fmt::format("cannot write the port file '{}'", path));
  }
  return absl::OkStatus();
}

v1::NodeInfo DescribeNode(const CpuAttentionFlags& flags, const AttentionServerOptions& options,
                          const AttentionServer& server, const DataPlane& data_plane,
                          const std::string& address, const std::string& metrics_address) {
  v1::NodeInfo node;
  node.mutable_endpoint()->set_node_id(options.node_id);
  node.mutable_endpoint()->set_incarnation(options.incarnation);
  node.mutable_endpoint()->set_control_address(address);
  node.set_role(v1::NODE_ROLE_CPU_ATTENTION);
  node.set_protocol_version(kProtocolVersion);
  node.set_version(std::string(BuildVersion()));
  node.set_kv_capacity_bytes(server.capacity_bytes());
  node.set_extent_bytes(static_cast<uint32_t>(flags.extent_bytes));
  *node.mutable_transport() = TransportInfoToProto(data_plane.info());
  node.set_metrics_address(metrics_address);
  return node;
}

void WaitForStopSignal(const sigset_t& signals) {
  int signal = 0;
  sigwait(&signals, &signal);
}

// Waits until no shard is left: the coordinator opens none on a draining node, and closes those of requests that end.
void Drain(const CpuAttentionFlags& flags, const sigset_t& stop_signals,
           NodeRegistration& registration, IoLoop& loop) {
  constexpr int64_t kPollMs = 20;
  constexpr timespec kPoll{0, kPollMs * kNsPerMs};
  constexpr int64_t kUnderWayMs =
      100;  // a shard may be opened by who has not heard of the draining
  registration.SetDraining();
  size_t num_shards = 0;
  for (int64_t waited_ms = 0; waited_ms <= int64_t{flags.drain_timeout_s} * 1000;
       waited_ms += kPollMs) {
    const absl::Status asked = loop.Run(
        [&](AttentionServer& server) { num_shards = server.shards().size(); }, 2 * kNsPerS);
    if (!asked.ok() || registration.coordinator_is_gone()) break;
    if (num_shards == 0 && waited_ms >= kUnderWayMs) return;
    if (sigtimedwait(&stop_signals, nullptr, &kPoll) > 0) break;
  }
  if (num_shards > 0) {
    LOG_WARN("node {} stops with {} open shards; requests with KV in them end with an error",
             flags.node_id, num_shards);
  }
}

absl::Status RunNode(const CpuAttentionFlags& flags, const sigset_t& stop_signals) {
  RealClock clock;
  MetricRegistry registry;
  AddProcessMetrics(registry);
  AttentionMetrics metrics(registry);
  ServiceStateMetric state(registry);
  state.Set(ServiceState::kStarting);

  UcxOptions ucx;
  ucx.tls = flags.transport_tls;
  ucx.net_devices = flags.transport_net_devices;
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<DataPlane> data_plane, MakeUcxDataPlane(ucx));
  AddBuildInfo(registry, data_plane->info().release, grpc::Version());

  AttentionServerOptions options;
  options.node_id = flags.node_id;
  options.incarnation = RandomIncarnation();
  options.kv_pool_bytes = flags.kv_pool_bytes;
  options.extent_bytes = flags.extent_bytes;
  options.num_threads =
      flags.threads > 0 ? flags.threads : std::max(1, static_cast<int>(AllowedCpus().size()));
  options.kernel = flags.kernel;
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<AttentionServer> server,
                             AttentionServer::Create(options, data_plane.get(), &clock, &metrics));

  IoLoop loop(server.get(), data_plane.get(), &clock);
  CpuAttentionService service(flags.node_id, data_plane->info(), &loop);
  std::string address;
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<grpc::Server> grpc_server,
                             StartGrpc(flags, &service, &address));
  std::unique_ptr<MetricsExposer> exposer;
  std::string metrics_address;
  if (!flags.metrics_listen.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(exposer, MetricsExposer::Start(flags.metrics_listen, registry));
    metrics_address = exposer->address();
  }
  const v1::NodeInfo node =
      DescribeNode(flags, options, *server, *data_plane, address, metrics_address);
  loop.Start();
  TRIBUTARY_RETURN_IF_ERROR(WritePortFile(flags.port_file, address, metrics_address));
  LOG_INFO("node {} serves on {} with {} bytes of KV, {} threads, kernel '{}', transports '{}'",
           flags.node_id, address, server->capacity_bytes(), options.num_threads,
           std::string(server->kernel_name()), data_plane->info().transports);
  state.Set(ServiceState::kServing);

  Refusal refusal;
  std::unique_ptr<NodeRegistration> registration;
  if (!flags.coordinator.empty()) {
    registration = std::make_unique<NodeRegistration>(
        flags.coordinator, node, &loop, [&](const absl::Status& status) { refusal.Set(status); });
    registration->Start();
  }
  WaitForStopSignal(stop_signals);
  LOG_INFO("node {} stops; a second signal ends it at once", flags.node_id);
  state.Set(ServiceState::kDraining);
  grpc_server->GetHealthCheckService()->SetServingStatus(false);
  if (registration != nullptr && refusal.Get().ok()) {
    Drain(flags, stop_signals, *registration, loop);
  }
  if (registration != nullptr) registration->Stop();
  grpc_server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  loop.Stop();
  return refusal.Get();
}

int Main(int argc, char** argv) {
  // gRPC would print its own account of errors that are reported below. Set it to see that too.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  // Before any thread starts: all inherit the mask, and only main takes the signals.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);

  CpuAttentionFlags flags;
  const int exit_code = ParseCpuAttentionFlags(argc, argv, &flags);
  if (exit_code >= 0) return exit_code;
  absl::Status status = InitLogging(kProcessName, flags.log_level);
  if (!status.ok()) {
    std::fprintf(stderr, "%s: %s\n", kProcessName, std::string(status.message()).c_str());
    return 1;
  }
  status = RunNode(flags, stop_signals);
  if (!status.ok()) {
    LOG_ERROR("{}", std::string(status.message()));
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }
