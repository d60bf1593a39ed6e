// A shard and those who hold it: the one type for both from the coordinator's placement over the wire to the worker's
// plan.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "cluster/node_endpoint.h"
#include "cluster/shard_spec.h"

namespace tributary {

// Holders of one shard, at most. A copy costs the shard's whole memory, so more are a mistake.
inline constexpr uint32_t kMaxHolders = 8;

// Every holder keeps the whole shard. Stored tokens go to each of them, and count as acknowledged per holder; a partial
// is asked of one.
struct ShardPlacement {
  ShardSpec spec;
  std::vector<NodeEndpoint> holders;  // at least one, no node twice

  // nullptr if the node is none of them.
  const NodeEndpoint* FindHolder(std::string_view node_id) const;
  friend bool operator==(const ShardPlacement&, const ShardPlacement&) = default;
};

// The list of holders alone; Validate(spec) checks the shard. INVALID_ARGUMENT, naming the shard: no holder, more than
// kMaxHolders, one without a node id, or a node twice.
absl::Status ValidateHolders(const ShardPlacement& placement);

}  // namespace tributary
