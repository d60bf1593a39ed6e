// CPU attention nodes as processes of their own, forked from the benchmark and driven over a socket instead of gRPC:
// the data path of a real cluster on one host.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/remote/remote_nodes.h"
#include "transport/idle_strategy.h"

namespace tributary {

struct ForkClusterOptions {
  int num_nodes = 4;
  int threads_per_node = 4;
  uint64_t kv_pool_bytes = 0;  // per node; touched when it is used
  IdleOptions idle;
  bool null_nodes = false;  // benchmarks/gpu/null_node.h; each spins on a core once it is connected
};

class ForkCluster final : public BlockingConnector {
 public:
  // Forks: call it before the process has threads, and before its first CUDA call.
  static absl::StatusOr<std::unique_ptr<ForkCluster>> Create(const ForkClusterOptions& options);
  ~ForkCluster() override;  // ends the nodes

  absl::StatusOr<NodeSession> Connect(const NodeEndpoint& node, const TransportInfo& local) override;
  absl::StatusOr<ShardPlacement> OpenShard(int node, const ShardSpec& spec);
  absl::Status CloseShard(int node, ShardId shard);

  int num_nodes() const { return static_cast<int>(nodes_.size()); }

 private:
  struct Node {
    std::string id;
    pid_t process = -1;
    int socket = -1;
  };
  // Sends a request and takes the answer, which begins with a status.
  absl::StatusOr<std::string> Call(const Node& node, char operation, std::string_view argument);

  std::vector<Node> nodes_;
};

}  // namespace tributary
