// Where a sequence's KV goes: which worker, which shards on which nodes. Pure: cluster and demand
// in, plan out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cluster/cluster_types.h"
#include "cluster/generate_request.h"
#include "cluster/node_endpoint.h"
#include "cluster/shard_placement.h"
#include "cluster/shard_spec.h"

namespace tributary {

// Tokens of one run of a stripe, unless blocks are longer.
inline constexpr uint32_t kMinStripeTokens = 256;

// What a sequence needs. REQUIRES: `placement` resolved and checked (coordinator/core/admission.h).
struct Demand {
  ModelGeometry geometry;
  uint64_t prompt_tokens = 0;
  uint64_t max_context_tokens = 0;  // prompt + max_tokens - 1: the last token is never fed back
  PlacementOptions placement;
  PolicyParams policy;
  std::vector<ShardSpec> cut = {};  // of a sequence that is rebuilt: as it was cut before; empty: as it suits
};

struct WorkerRoom {
  std::string node_id;
  uint64_t capacity_bytes = 0;   // 0 = not stated: not checked
  uint64_t available_bytes = 0;  // of resident KV
  uint32_t sequences = 0;
  uint32_t max_token_stripes = 0;                   // 0 = limits::kMaxTokenStripes
  bool usable = true;                               // as in NodeRoom
  std::vector<std::string> unreachable_nodes = {};  // for now; as nodes that are not usable
};

struct NodeRoom {
  NodeEndpoint endpoint;
  uint64_t capacity_bytes = 0;
  uint64_t available_bytes = 0;
  uint32_t extent_bytes = 0;
  // False: takes nothing now but may again (suspect). Its capacity counts for whether a demand can
  // ever be met.
  bool usable = true;
};

struct ClusterRoom {
  std::vector<WorkerRoom> workers;
  std::vector<NodeRoom> nodes;
};

struct PlacementPlan {
  std::string worker_id;
  uint64_t resident_bytes = 0;
  std::vector<ShardPlacement> shards;  // one holder each; ids and epoch unset. Empty: all resident
};

// Remote tokens of the longest context that the demand allows: whole blocks, 0 if the context stays
// resident.
uint64_t MaxRemoteTokens(const Demand& demand);
// Most resident tokens: sinks, window, and two blocks on their way out.
uint64_t MaxResidentTokens(const Demand& demand);

struct PlacementResult {
  // OK: `plan`. UNAVAILABLE: no worker or no node is there. RESOURCE_EXHAUSTED: see `may_wait`.
  absl::Status status;
  // The demand would fit once running sequences have ended.
  bool may_wait = false;
  PlacementPlan plan;
};

// Prefers the worker with the fewest sequences for which there is room on nodes that it reaches. Prefers many nodes,
// then those with most free memory; falls back to fewer nodes when the small ones have no room.
PlacementResult Place(const ClusterRoom& cluster, const Demand& demand);

}  // namespace tributary
