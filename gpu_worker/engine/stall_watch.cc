#include "gpu_worker/engine/stall_watch.h"

#include <algorithm>

#include "base/log.h"
#include "fmt/format.h"

namespace tributary {
namespace {

using NodeState = RemoteNodes::State;

constexpr int64_t kLookIntervalNs = 100 * kNsPerMs;

// A silent node that nobody stands in for; kNoNode if some holder can be asked.
NodeIdx SilentHolder(const BoundShard& shard, const RemoteNodes& nodes) {
  NodeIdx silent = kNoNode;
  for (const ShardHolder& holder : shard.holders) {
    if (holder.lost) continue;
    if (nodes.state(holder.node) != NodeState::kSilent) return kNoNode;
    if (silent == kNoNode) silent = holder.node;
  }
  return silent;
}

}  // namespace

int64_t MaxStallNs(const TurnPlan& turn, const EngineOptions& options) {
  return turn.max_stall_ns > 0 ? turn.max_stall_ns : options.max_stall_ns;
}

NodeIdx StalledOn(const Sequence& sequence, const RemoteNodes& nodes, const SpillSender& sender) {
  if (nodes.num_silent() == 0) return kNoNode;
  const bool works = sequence.is(SequenceState::kPrefilling) || sequence.is(SequenceState::kDraining) ||
                     sequence.is(SequenceState::kDecoding) || sequence.is(SequenceState::kAppending);
  if (!works) return kNoNode;
  if (!sequence.cache.remote().empty()) {
    for (const BoundShard& shard : sequence.shards) {
      if (const NodeIdx silent = SilentHolder(shard, nodes); silent != kNoNode) return silent;
    }
  }
  if (sequence.cache.CanAppend()) return kNoNode;
  const NodeIdx slowest = sender.SlowestNode(sequence.id());
  return slowest != kNoNode && nodes.state(slowest) == NodeState::kSilent ? slowest : kNoNode;
}

void StallWatch::Update() {
  const int64_t now_ns = parts_.nodes->patient_now_ns();
  // Whoever waits for a node that answers, but too late, is looked at now and then.
  if (parts_.nodes->num_silent() == 0 && num_stalled_ == 0 && now_ns - looked_ns_ < kLookIntervalNs) return;
  looked_ns_ = now_ns;
  num_stalled_ = 0;
  parts_.sequences->ForEach([&](Sequence& sequence) {
    if (!sequence.failure.ok()) return;
    Update(sequence);
    if (sequence.stall.on != kNoNode) ++num_stalled_;
    FailIfTooLong(sequence);
  });
  if (parts_.metrics != nullptr) parts_.metrics->stalled_sequences.Set(static_cast<double>(num_stalled_));
}

void StallWatch::Update(Sequence& sequence) {
  SequenceStall& stall = sequence.stall;
  const NodeIdx on = StalledOn(sequence, *parts_.nodes, *parts_.sender);
  const int64_t now_ns = parts_.nodes->patient_now_ns();
  if (on == kNoNode) {
    if (stall.on != kNoNode) parts_.events->OnResumed(sequence.id());
    stall.on = kNoNode;
    if (!stall.parked) stall.since_ns = SequenceStall::kNotStalled;
    return;
  }
  if (stall.since_ns == SequenceStall::kNotStalled) stall.since_ns = now_ns;
  if (stall.on == kNoNode) {
    if (parts_.metrics != nullptr) parts_.metrics->stalls.Increment();
    parts_.events->OnStalled(sequence.id(), parts_.nodes->node_id(on));
  }
  stall.on = on;
  if (parts_.nodes->silent_ns(on) < options_.nodes.max_silence_ns || sequence.shards.empty()) return;
  const bool others_live = std::all_of(sequence.shards.begin(), sequence.shards.end(), [&](const BoundShard& shard) {
    return SilentHolder(shard, *parts_.nodes) == kNoNode;
  });
  if (!others_live) return;
  parts_.spills->LoseHolder(sequence, on,
                            absl::UnavailableError("it is silent, and keeps the window from making room"));
}

void StallWatch::FailIfTooLong(Sequence& sequence) {
  const SequenceStall& stall = sequence.stall;
  if (stall.since_ns == SequenceStall::kNotStalled || !sequence.failure.ok()) return;
  const int64_t stalled_ns = parts_.nodes->patient_now_ns() - stall.since_ns;
  if (stalled_ns < MaxStallNs(sequence.plan, options_)) return;
  const NodeIdx node = stall.on != kNoNode ? stall.on : stall.parked_on;
  sequence.Fail(absl::UnavailableError(fmt::format(
                    "it holds KV of this sequence, which has waited {:.1f} s for it, as long as it may (max_stall); "
                    "see that the host runs and can be reached, and send the request again",
                    SecondsFromNs(stalled_ns))),
                node);
}

}  // namespace tributary
