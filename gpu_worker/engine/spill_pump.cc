#include "gpu_worker/engine/spill_pump.h"

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
    worked |= PumpSpill(sequence, device_, sender_, options_.spill_frame_bytes);
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

void SpillPump::MakeRoom(Sequence& sequence, int64_t deadline_ns) {
  IdleStrategy idle(options_.idle, clock_);
  while (sequence.failure.ok() && !TryMakeRoom(sequence)) {
    const int events_handled = nodes_->Poll() + (Pump() ? 1 : 0);
    if (events_handled == 0 && clock_->NowNs() >= deadline_ns) {
      const NodeIdx node = sender_->SlowestNode(sequence.id());
      sequence.Fail(absl::DeadlineExceededError(fmt::format("tokens [{}, {}) were not acknowledged within the step's "
                                                            "deadline, so the window is full",
                                                            sequence.spill->block.begin, sequence.spill->block.end)),
                    node != kNoNode ? node : sequence.shards[sequence.spill->shard_idx].node);
    }
    idle.AfterPoll(events_handled, *data_plane_);
  }
}

void SpillPump::FailOverdue() {
  if (nodes_->patient_now_ns() - overdue_ns_ < kOverdueIntervalNs) return;
  overdue_ns_ = nodes_->patient_now_ns();
  for (const SpillFailure& failure : sender_->FindOverdue()) FailFrom(failure);
}

void SpillPump::OnAck(NodeIdx node, const FrameHeader& header, const AckBody& ack) {
  if (const auto failure = sender_->OnAck(node, header.layer, ack)) FailFrom(*failure);
}

void SpillPump::OnRejected(NodeIdx node, const ErrorBody& error) {
  if (const auto failure = sender_->OnRejected(node, error)) FailFrom(*failure);
}

void SpillPump::OnDamaged(NodeIdx node, const FrameHeader& header) {
  if (const auto failure = sender_->OnDamaged(node, header)) FailFrom(*failure);
}

void SpillPump::FailFrom(const SpillFailure& failure) {
  if (Sequence* sequence = sequences_->Find(failure.sequence)) sequence->Fail(failure.status, failure.node);
}

size_t SpillPump::num_blocks() const {
  return sequences_->Count([](const Sequence& sequence) { return sequence.spill.has_value(); });
}

}  // namespace tributary
