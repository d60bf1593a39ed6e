#include "gpu_worker/remote/bound_shard.h"

namespace tributary {

bool BoundShard::Lose(NodeIdx node) {
  for (ShardHolder& holder : holders) holder.lost |= holder.node == node;
  return std::any_of(holders.begin(), holders.end(), [](const ShardHolder& holder) { return !holder.lost; });
}

}  // namespace tributary
