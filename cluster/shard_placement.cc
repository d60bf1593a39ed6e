#include "cluster/shard_placement.h"

#include <algorithm>
#include <string>

#include "fmt/format.h"

namespace tributary {

const NodeEndpoint* ShardPlacement::FindHolder(std::string_view node_id) const {
  const auto it =
      std::find_if(holders.begin(), holders.end(), [&](const NodeEndpoint& h) { return h.node_id == node_id; });
  return it == holders.end() ? nullptr : &*it;
}

absl::Status ValidateHolders(const ShardPlacement& placement) {
  const auto invalid = [&](const std::string& what) {
    return absl::InvalidArgumentError(fmt::format("shard {} of sequence {} {}", placement.spec.shard_id.value,
                                                  placement.spec.sequence_id.value, what));
  };
  if (placement.holders.empty()) return invalid("has no holder; it must have at least one");
  if (placement.holders.size() > kMaxHolders) {
    return invalid(fmt::format("has {} holders; allowed are 1 to {}", placement.holders.size(), kMaxHolders));
  }
  for (const NodeEndpoint& holder : placement.holders) {
    if (holder.node_id.empty()) return invalid("has a holder without a node id");
    if (placement.FindHolder(holder.node_id) != &holder) {
      return invalid(fmt::format("names node '{}' as a holder twice", holder.node_id));
    }
  }
  return absl::OkStatus();
}

}  // namespace tributary
