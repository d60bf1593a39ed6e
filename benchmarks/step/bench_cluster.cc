#include "benchmarks/step/bench_cluster.h"

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {
constexpr int64_t kControlTimeoutNs = 10 * kNsPerS;
const WorkerIdentity kWorker{"bench", 1};
}  // namespace

absl::StatusOr<std::unique_ptr<BenchCluster>> BenchCluster::Create(const BenchClusterOptions& options) {
  auto cluster = std::make_unique<BenchCluster>();
  for (int i = 0; i < options.num_nodes; ++i) {
    Node node;
    node.id = fmt::format("bench-{}", i);
    UcxOptions ucx;
    ucx.tls = options.tls;
    TRIBUTARY_ASSIGN_OR_RETURN(node.plane, MakeUcxDataPlane(ucx));
    AttentionServerOptions server;
    server.node_id = node.id;
    server.incarnation = 1;
    server.arena.bytes = options.kv_pool_bytes;
    server.num_threads = options.threads_per_node;
    TRIBUTARY_ASSIGN_OR_RETURN(node.server,
                               AttentionServer::Create(server, node.plane.get(), &cluster->clock_, nullptr));
    node.loop = std::make_unique<IoLoop>(node.server.get(), node.plane.get(), &cluster->clock_);
    node.loop->Start();
    cluster->nodes_.push_back(std::move(node));
  }
  return cluster;
}

BenchCluster::~BenchCluster() {
  for (Node& node : nodes_) {
    node.loop->Stop();
    node.loop.reset();
    node.server.reset();
  }
}

NodeEndpoint BenchCluster::endpoint(int node) const {
  return {nodes_[static_cast<size_t>(node)].id, 1, fmt::format("thread:{}", node)};
}

absl::StatusOr<NodeSession> BenchCluster::Connect(const NodeEndpoint& endpoint, const TransportInfo& local) {
  for (Node& node : nodes_) {
    if (node.id != endpoint.node_id) continue;
    absl::StatusOr<SessionGrant> grant = absl::InternalError("not run");
    TRIBUTARY_RETURN_IF_ERROR(node.loop->Run(
        [&](AttentionServer& server) { grant = server.OpenSession(kWorker, local.address); }, kControlTimeoutNs));
    TRIBUTARY_RETURN_IF_ERROR(grant.status());
    return NodeSession{node.plane->info(), grant->session_id, grant->keys, grant->epoch, node.id};
  }
  return absl::NotFoundError(fmt::format("no node '{}'", endpoint.node_id));
}

absl::StatusOr<ShardPlacement> BenchCluster::OpenShard(int node, const ShardSpec& spec) {
  absl::StatusOr<uint64_t> reserved = absl::InternalError("not run");
  TRIBUTARY_RETURN_IF_ERROR(nodes_[static_cast<size_t>(node)].loop->Run(
      [&](AttentionServer& server) { reserved = server.OpenShard(spec, kWorker); }, kControlTimeoutNs));
  TRIBUTARY_RETURN_IF_ERROR(reserved.status());
  return ShardPlacement{spec, {endpoint(node)}};
}

}  // namespace tributary
