// What nodes say about themselves, in the house's own types.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "attention/shape.h"
#include "base/dtype.h"
#include "base/ids.h"

namespace tributary {

// Two GPU workers that differ in any field must not serve one cluster.
struct ModelGeometry {
  AttentionShape attention;
  uint32_t num_layers = 0;
  uint32_t vocab_size = 0;
  std::string model_name;
  // Layers whose attention sees a window only: their KV stays on the worker, and shards have the others.
  uint32_t num_windowed_layers = 0;
  uint32_t sliding_window_tokens = 0;  // which these layers see, the newest token included; 0: there are none

  uint32_t num_shard_layers() const { return num_layers - num_windowed_layers; }

  // Bytes of K and V of one token over all layers and KV heads.
  uint64_t KvBytesPerToken(DType dtype) const {
    return uint64_t{2} * num_layers * attention.num_kv_heads * attention.head_dim * DTypeBytes(dtype);
  }
  friend bool operator==(const ModelGeometry&, const ModelGeometry&) = default;
};

enum class NodeRole { kGpuWorker, kCpuAttention };
std::string_view NodeRoleName(NodeRole role);  // "gpu_worker", "cpu_attention"

struct NodeDescription {
  std::string node_id;
  uint64_t incarnation = 0;  // random per start
  NodeRole role = NodeRole::kCpuAttention;
  std::string control_address;  // host:port of its gRPC server
  std::string metrics_address;
  std::string version;
  uint32_t protocol_version = 0;
  uint64_t kv_capacity_bytes = 0;  // KV pool; of a GPU worker: for resident KV, 0 = not stated
  uint32_t extent_bytes = 0;       // CPU attention nodes: granule in which memory is reserved

  // GPU workers only; 0 = not stated.
  ModelGeometry geometry;
  uint64_t max_context_tokens = 0;
  uint32_t max_batch = 0;
  uint32_t max_prompt_tokens = 0;
  uint32_t max_token_stripes = 0;
};

// A shard as its node reports it.
struct ReportedShard {
  ShardId shard_id;
  SequenceId sequence_id;
  uint64_t reserved_bytes = 0;
  uint64_t stored_tokens = 0;  // summed over layers / layers
};

// A CPU attention node's sign of life.
struct NodeHeartbeat {
  std::string node_id;
  uint64_t incarnation = 0;
  uint64_t free_bytes = 0;
  std::vector<ReportedShard> shards;
  bool draining = false;  // it finishes what it has and takes nothing new
  bool leaving = false;   // its last word: the process ends, and its id is free
};

}  // namespace tributary
