// tributary-cpu-attention: puts a CPU attention node together and runs it until SIGTERM or SIGINT.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "base/version.h"
#include "cpu_attention_service/edge/cpu_attention_flags.h"
#include "cpu_attention_service/edge/cpu_attention_service.h"
#include "cpu_attention_service/edge/node_registration.h"
#include "cpu_attention_service/node/attention_metrics.h"
#include "cpu_attention_service/node/attention_server.h"
#include "cpu_attention_service/node/io_loop.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "process/fd_limit.h"
#include "process/rpc_metrics.h"
#include "proto/convert_node.h"
#include "rpc/rpc_server.h"
#include "telemetry/build_info.h"
#include "telemetry/exposer.h"
#include "telemetry/process_collector.h"
#include "transport/ucx/ucx_data_plane.h"

namespace tributary {
namespace {

constexpr char kProcessName[] = "tributary-cpu-attention";
// A worker that is there sends a heartbeat every half second; what is left is of one that hung and came back as
// another.
constexpr int64_t kSessionIdleNs = 120 * kNsPerS;

// By what others reach the server.
std::string AdvertisedAddress(const CpuAttentionFlags& flags, const RpcServer& server) {
  const std::string& address = server.address();
  return flags.advertise.empty() ? address : flags.advertise + address.substr(address.rfind(':'));
}

NodeDescription DescribeNode(const CpuAttentionFlags& flags, const AttentionServerOptions& options,
                             const AttentionServer& server, const std::string& address,
                             const std::string& metrics_address) {
  NodeDescription node;
  node.node_id = options.node_id;
  node.incarnation = options.incarnation;
  node.role = NodeRole::kCpuAttention;
  node.control_address = address;
  node.metrics_address = metrics_address;
  node.version = std::string(VersionText());
  node.protocol_version = kProtocolVersion;
  node.kv_capacity_bytes = server.capacity_bytes();
  node.extent_bytes = static_cast<uint32_t>(flags.extent_bytes);
  return node;
}

// Waits until no shard is left: the coordinator opens none on a draining node, and closes those of requests that end.
void Drain(const CpuAttentionFlags& flags, NodeRegistration& registration, IoLoop& loop) {
  constexpr int64_t kPollMs = 20;
  constexpr int64_t kUnderWayMs = 100;  // a shard may be opened by who has not heard of the draining
  registration.SetDraining();
  size_t num_shards = 0;
  for (int64_t waited_ms = 0; waited_ms <= int64_t{flags.drain_timeout_s} * 1000; waited_ms += kPollMs) {
    const absl::Status asked =
        loop.Run([&](AttentionServer& server) { num_shards = server.shards().size(); }, 2 * kNsPerS);
    if (!asked.ok() || registration.coordinator_is_gone()) break;
    if (num_shards == 0 && waited_ms >= kUnderWayMs) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs));
  }
  if (num_shards > 0) {
    LOG_WARN("node {} stops with {} open shards; requests with KV in them end with an error", flags.node_id,
             num_shards);
  }
}

absl::StatusOr<AttentionServerOptions> MakeServerOptions(const CpuAttentionFlags& flags) {
  AttentionServerOptions options;
  options.node_id = flags.node_id;
  options.incarnation = RandomIncarnation();
  TRIBUTARY_ASSIGN_OR_RETURN(options.cpus, CpusToPin(flags));
  options.helper_spin_ns = int64_t{flags.spin_us} * kNsPerUs;
  options.arena.bytes = flags.kv_pool_bytes;
  options.arena.try_hugetlb = flags.huge_pages == "reserved";
  options.arena.transparent_huge = flags.huge_pages != "off";
  options.arena.prefault = flags.prefault;
  options.arena.numa_node = flags.numa_node;
  options.extent_bytes = flags.extent_bytes;
  const size_t num_cpus = options.cpus.empty() ? AllowedCpus().size() : options.cpus.size();
  options.num_threads = flags.threads > 0 ? flags.threads : std::max(1, static_cast<int>(num_cpus));
  options.kernel = flags.kernel;
  options.data_plane_mac = flags.data_plane_mac;
  options.session_idle_ns = kSessionIdleNs;
  return options;
}

// What was got of what the flags ask for.
void LogPlacement(const AttentionServerOptions& options, const Arena& arena) {
  LOG_INFO("KV pool: {} bytes in pages of kind '{}', {}; {}", arena.memory().size(), PageKindName(arena.page_kind()),
           arena.bound_to_node() < 0 ? std::string("bound to no NUMA node")
                                     : fmt::format("bound to NUMA node {}", arena.bound_to_node()),
           options.cpus.empty() ? std::string("threads not pinned")
                                : fmt::format("threads pinned to cores {}", fmt::join(options.cpus, ",")));
  if (options.arena.try_hugetlb && arena.page_kind() != PageKind::kHugeTlb) {
    LOG_WARN(
        "fewer huge pages are reserved than the KV pool needs, '{}' pages are used; see "
        "/proc/sys/vm/nr_hugepages",
        PageKindName(arena.page_kind()));
  }
  if (options.arena.numa_node >= 0 && arena.bound_to_node() < 0) {
    LOG_WARN("the kernel refuses to bind memory to NUMA node {} (CAP_SYS_NICE in a container?)",
             options.arena.numa_node);
  }
}

absl::Status RunNode(const CpuAttentionFlags& flags, StopSignals& stop) {
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
  AddBuildInfo(registry, data_plane->info().release, GrpcVersion());

  TRIBUTARY_ASSIGN_OR_RETURN(const AttentionServerOptions options, MakeServerOptions(flags));
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<AttentionServer> server,
                             AttentionServer::Create(options, data_plane.get(), &clock, &metrics));

  const int io_cpu = options.cpus.empty() ? -1 : options.cpus.front();
  IoLoop loop(server.get(), data_plane.get(), &clock, {.spin_ns = int64_t{flags.spin_us} * kNsPerUs}, io_cpu);
  CpuAttentionService service(flags.node_id, data_plane->info(), flags.data_plane_mac, &loop);
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> rpc, RpcServer::Start(flags.listen, {&service}));
  const std::string address = AdvertisedAddress(flags, *rpc);
  AddRpcMetrics(*rpc, registry);
  std::unique_ptr<MetricsExposer> exposer;
  std::string metrics_address;
  if (!flags.metrics_listen.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(exposer, MetricsExposer::Start(flags.metrics_listen, registry));
    metrics_address = exposer->address();
  }
  const v1::NodeInfo node = NodeToProto(DescribeNode(flags, options, *server, address, metrics_address));
  LogPlacement(options, server->arena());
  loop.Start();
  if (!flags.port_file.empty()) {
    TRIBUTARY_RETURN_IF_ERROR(WritePortFile(flags.port_file, address, metrics_address));
  }
  LOG_INFO("node {} serves on {} with {} bytes of KV, {} threads, kernel '{}', transports '{}'", flags.node_id, address,
           server->capacity_bytes(), options.num_threads, std::string(server->kernel_name()),
           data_plane->info().transports);
  state.Set(ServiceState::kServing);

  Refusal refusal(&stop);
  std::unique_ptr<NodeRegistration> registration;
  if (!flags.coordinator.empty()) {
    registration = std::make_unique<NodeRegistration>(flags.coordinator, node, &loop,
                                                      [&](const absl::Status& status) { refusal.Set(status); });
    registration->Start();
  }
  stop.Wait();
  state.Set(ServiceState::kDraining);
  rpc->SetServing(false);
  if (registration != nullptr && refusal.Get().ok()) Drain(flags, *registration, loop);
  if (registration != nullptr) registration->Stop();
  rpc->Shutdown(kNsPerS);
  loop.Stop();
  return refusal.Get();
}

int Main(int argc, char** argv) {
  CpuAttentionFlags flags;
  const int exit_code = ParseCpuAttentionFlags(argc, argv, &flags);
  if (exit_code >= 0) return exit_code;
  absl::Status status = InitLogging(kProcessName, flags.log_level);
  if (status.ok()) {
    RaiseFdLimit();
    StopSignals stop;
    status = RunNode(flags, stop);
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: %s\n", kProcessName, std::string(status.message()).c_str());
  return 1;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }
