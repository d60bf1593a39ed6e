// tributary-cpu-attention: puts a CPU attention node together and runs it until SIGTERM or SIGINT.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/random_id.h"
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
#include "process/server_process.h"
#include "proto/convert_node.h"
#include "transport/ucx/ucx_data_plane.h"

namespace tributary {
namespace {

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
void Drain(ServerProcess& process, const std::string& node_id, NodeRegistration& registration, IoLoop& loop) {
  registration.SetDraining();
  size_t num_shards = 0;
  process.Drain([&] {
    const absl::Status asked =
        loop.Run([&](AttentionServer& server) { num_shards = server.shards().size(); }, 2 * kNsPerS);
    return !asked.ok() || registration.coordinator_is_gone() || num_shards == 0;
  });
  if (num_shards > 0) {
    LOG_WARN("node {} stops with {} open shards; requests with KV in them end with an error", node_id, num_shards);
  }
}

absl::StatusOr<AttentionServerOptions> MakeServerOptions(const CpuAttentionFlags& flags) {
  AttentionServerOptions options;
  options.node_id = flags.node_id;
  options.incarnation = RandomId();
  TRIBUTARY_ASSIGN_OR_RETURN(options.cpus, CpusToPin(flags));
  options.helper_spin_ns = int64_t{flags.data_plane.spin_us} * kNsPerUs;
  options.arena.bytes = flags.kv_pool_bytes;
  options.arena.try_hugetlb = flags.huge_pages == "reserved";
  options.arena.transparent_huge = flags.huge_pages != "off";
  options.arena.prefault = flags.prefault;
  options.arena.numa_node = flags.numa_node;
  options.extent_bytes = flags.extent_bytes;
  options.scrub.bytes_per_second = flags.scrub_bytes_per_second;
  const size_t num_cpus = options.cpus.empty() ? AllowedCpus().size() : options.cpus.size();
  options.num_threads = flags.threads > 0 ? flags.threads : std::max(1, static_cast<int>(num_cpus));
  options.kernel = flags.kernel;
  options.data_plane_mac = flags.data_plane.mac;
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

absl::Status RunNode(const CpuAttentionFlags& flags, ServerProcess& process) {
  RealClock clock;
  AttentionMetrics metrics(process.registry());
  UcxOptions ucx;
  ucx.tls = flags.data_plane.transport_tls;
  ucx.net_devices = flags.data_plane.transport_net_devices;
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<DataPlane> data_plane, MakeUcxDataPlane(ucx));
  process.SetBuildInfo(data_plane->info().release);

  TRIBUTARY_ASSIGN_OR_RETURN(const AttentionServerOptions options, MakeServerOptions(flags));
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<AttentionServer> server,
                             AttentionServer::Create(options, data_plane.get(), &clock, &metrics));

  const int io_cpu = options.cpus.empty() ? -1 : options.cpus.front();
  const IdleOptions idle{.spin_ns = int64_t{flags.data_plane.spin_us} * kNsPerUs};
  IoLoop loop(server.get(), data_plane.get(), &clock, idle, io_cpu);
  CpuAttentionService service(flags.node_id, data_plane->info(), flags.data_plane.mac, &loop, process.security());
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> rpc,
                             RpcServer::Start(process.flags().listen, {&service}, process.security()->ServerOptions()));
  const std::string address = AdvertisedAddress(flags, *rpc);
  TRIBUTARY_RETURN_IF_ERROR(process.StartMetrics());
  const v1::NodeInfo node = NodeToProto(DescribeNode(flags, options, *server, address, process.metrics_address()));
  LogPlacement(options, server->arena());
  loop.Start();
  TRIBUTARY_RETURN_IF_ERROR(process.PublishAddress(*rpc, address));
  process.SetServing(
      *rpc, fmt::format("node {} serves on {} with {} bytes of KV, {} threads, kernel '{}', transports '{}'",
                        flags.node_id, address, server->capacity_bytes(), options.num_threads, server->kernel_name(),
                        data_plane->info().transports));
  std::unique_ptr<NodeRegistration> registration;
  if (!flags.coordinator.empty()) {
    registration = std::make_unique<NodeRegistration>(
        flags.coordinator, node, &loop, [&](const absl::Status& status) { process.Refuse(status); },
        process.security()->ChannelOptions(PeerRole::kCoordinator));
    registration->Start();
  }
  process.WaitForStop();
  if (registration != nullptr) {
    if (process.refusal().ok()) Drain(process, flags.node_id, *registration, loop);
    registration->Stop();
  }
  rpc->Shutdown(kNsPerS);
  loop.Stop();
  return process.refusal();
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) {
  tributary::CpuAttentionFlags flags;
  return tributary::RunServerProgram(
      argc, argv,
      {"tributary-cpu-attention", "tributary-cpu-attention",
       "A CPU attention node: holds shards of KV and attends over them where they lie.", tributary::PeerRole::kNode},
      [&](CLI::App& app) { tributary::AddCpuAttentionFlags(app, &flags); },
      [&](tributary::ServerProcess& process) { return tributary::RunNode(flags, process); });
}
