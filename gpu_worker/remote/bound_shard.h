// A shard and those who hold it, as the worker's loop refers to them.
//
// Every holder that is not lost has the whole shard: stored tokens go to each, and count as acknowledged per holder; a
// query asks one. A holder is lost to a sequence for ever, even if its node comes back: what was sent meanwhile is not
// there. Plain values; thread-compatible.
#pragma once

#include <algorithm>
#include <vector>

#include "base/dtype.h"
#include "cluster/shard_spec.h"
#include "gpu_worker/remote/remote_nodes.h"

namespace tributary {

struct ShardHolder {
  NodeIdx node = kNoNode;
  bool lost = false;
};

struct BoundShard {
  ShardSpec spec;
  std::vector<ShardHolder> holders;      // at least one, no node twice; in the plan's order
  DType exchange_dtype = DType::kUnset;  // of K and V on the way; the shard may store others

  // Whether the node holds it, and is not lost.
  bool IsHeldBy(NodeIdx node) const {
    return std::any_of(holders.begin(), holders.end(),
                       [&](const ShardHolder& holder) { return holder.node == node && !holder.lost; });
  }
  // False if no holder is left. Unknown nodes are ignored.
  bool Lose(NodeIdx node);
};

// Whom a query asks: the first holder that is heard of, else the first one that may be heard of yet, else the first one
// that is silent. If all have failed, the first of all: sending to it says why. `state_of` is
// RemoteNodes::State(NodeIdx).
template <typename StateOf>
NodeIdx ChooseHolder(const BoundShard& shard, StateOf&& state_of) {
  NodeIdx connecting = kNoNode, silent = kNoNode;
  for (const ShardHolder& holder : shard.holders) {
    if (holder.lost) continue;
    const RemoteNodes::State state = state_of(holder.node);
    if (state == RemoteNodes::State::kHealthy) return holder.node;
    const bool may_come = state == RemoteNodes::State::kConnecting || state == RemoteNodes::State::kPairing;
    if (may_come && connecting == kNoNode) connecting = holder.node;
    if (state == RemoteNodes::State::kSilent && silent == kNoNode) silent = holder.node;
  }
  if (connecting != kNoNode) return connecting;
  return silent != kNoNode ? silent : shard.holders.front().node;
}

}  // namespace tributary
