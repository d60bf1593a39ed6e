#include "gpu_worker/engine/spill_pump.h"

#include "base/log.h"
#include "fmt/format.h"
#include "transport/idle_strategy.h"

namespace tributary {
namespace {

constexpr int64_t kOverdueIntervalNs = 100 * kNsPerMs;

}  // namespace

void SpillPump::BeginDue() {
  sequences_->ForEach([&](Sequence& sequence) {
    const bool grows = sequence.is(SequenceState::kAppending) || sequence.is(SequenceState::kDecoding);
    if (!grows || sequence.spill || !sequence.failure.ok()) return;
    if (const auto block = sequence.cache.next_spill()) {
      sequence.spill = BeginBlockSpill(sequence, *block);
    }
  });
  Pump();
}

bool SpillPump::Pump() {
  bool worked = sender_->Pump() > 0;
  sequences_->ForEach([&](Sequence& sequence) {
    if (!sequence.spill || sequence.spill->all_sent || !sequence.failure.ok()) return;
    worked |= PumpSpill(sequence, layers_, device_, sender_, options_.spill_frame_bytes);
  });
  return worked;
}

bool SpillPump::TryMakeRoom(Sequence& sequence) {
  if (sequence.cache.CanAppend()) return true;
  if (!sequence.spill->all_sent || sender_->in_flight(sequence.id()) != 0) return false;
  sequence.cache.Release();
  sequence.spill.reset();
  return true;
}

void SpillPump::MakeRoom(Sequence& sequence, int64_t deadline_ns, int64_t timeout_ns) {
  IdleStrategy idle(options_.idle, clock_);
  while (sequence.failure.ok() && !TryMakeRoom(sequence)) {
    const int events_handled = nodes_->Poll() + (Pump() ? 1 : 0);
    if (events_handled == 0) {
      const NodeIdx slowest = SlowestHolder(sequence);
      nodes_->Await(slowest);
      if (nodes_->state(slowest) == RemoteNodes::State::kSilent) return;
      if (clock_->NowNs() >= deadline_ns) {
        if (!sequence.HasOtherHolders(slowest)) return sequence.Park(0, slowest, nodes_->patient_now_ns());
        const TokenRange block = sequence.spill->block;
        LoseHolder(sequence, slowest,
                   absl::DeadlineExceededError(fmt::format("tokens [{}, {}) were not acknowledged within the step's "
                                                           "deadline, so the window is full",
                                                           block.begin, block.end)));
        deadline_ns = clock_->NowNs() + timeout_ns;
      }
    }
    idle.AfterPoll(events_handled, *data_plane_);
  }
}

NodeIdx SpillPump::SlowestHolder(const Sequence& sequence) const {
  const NodeIdx slowest = sender_->SlowestNode(sequence.id());
  if (slowest != kNoNode) return slowest;
  return sequence.shards[sequence.spill->shard_idx].holders[sequence.spill->holder_idx].node;
}

void SpillPump::LoseOverdue() {
  if (nodes_->patient_now_ns() - overdue_ns_ < kOverdueIntervalNs) return;
  overdue_ns_ = nodes_->patient_now_ns();
  for (const SpillFailure& failure : sender_->FindOverdue()) LoseFrom(failure);
}

void SpillPump::OnAck(NodeIdx node, const FrameHeader& header, const AckBody& ack) {
  if (const auto failure = sender_->OnAck(node, header.layer, ack)) LoseFrom(*failure);
}

void SpillPump::OnRejected(NodeIdx node, const ErrorBody& error, std::string_view text) {
  if (const auto failure = sender_->OnRejected(node, error, text)) LoseFrom(*failure);
}

void SpillPump::OnDamaged(NodeIdx node, const FrameHeader& header) {
  if (const auto failure = sender_->OnDamaged(node, header)) LoseFrom(*failure);
}

void SpillPump::LoseFrom(const SpillFailure& failure) {
  if (Sequence* sequence = sequences_->Find(failure.sequence)) LoseHolder(*sequence, failure.node, failure.status);
}

void SpillPump::LoseHolder(Sequence& sequence, NodeIdx node, const absl::Status& status) {
  sender_->DropHolder(sequence.id(), node);
  if (!sequence.LoseHolder(node)) {
    sequence.Fail(status, node);
  } else {
    LOG_WARN("sequence {} goes on without CPU attention node '{}': {}", sequence.id().value, nodes_->node_id(node),
             std::string(status.message()));
  }
}

size_t SpillPump::num_blocks() const {
  return sequences_->Count([](const Sequence& sequence) { return sequence.spill.has_value(); });
}

}  // namespace tributary
