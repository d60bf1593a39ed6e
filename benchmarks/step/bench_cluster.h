// CPU attention nodes on threads of this process, each with its own UCX worker, and a connector that pairs an engine
// with them without gRPC: the data path of a real cluster, and nothing of its control plane.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "cpu_attention_service/node/attention_server.h"
#include "cpu_attention_service/node/io_loop.h"
#include "gpu_worker/remote/remote_nodes.h"
#include "transport/ucx/ucx_data_plane.h"

namespace tributary {

struct BenchClusterOptions {
  int num_nodes = 1;
  int threads_per_node = 1;
  uint64_t kv_pool_bytes = 0;  // per node
  std::string tls;             // UCX_TLS; empty = UCX's choice
};

class BenchCluster final : public BlockingConnector {
 public:
  static absl::StatusOr<std::unique_ptr<BenchCluster>> Create(const BenchClusterOptions& options);
  ~BenchCluster() override;

  absl::StatusOr<NodeSession> Connect(const NodeEndpoint& node, const TransportInfo& local) override;
  NodeEndpoint endpoint(int node) const;
  // Opens the shard on the node and returns its route.
  absl::StatusOr<ShardPlacement> OpenShard(int node, const ShardSpec& spec);

  const Clock* clock() const { return &clock_; }

 private:
  struct Node {
    std::string id;
    std::unique_ptr<UcxDataPlane> plane;
    std::unique_ptr<AttentionServer> server;
    std::unique_ptr<IoLoop> loop;
  };
  RealClock clock_;
  std::vector<Node> nodes_;
};

}  // namespace tributary
