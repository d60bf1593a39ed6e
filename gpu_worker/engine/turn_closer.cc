#include "gpu_worker/engine/turn_closer.h"

#include <utility>
#include <vector>

#include "fmt/format.h"
#include "gpu_worker/engine/sequence_summary.h"

namespace tributary {
namespace {

// With the node's name in front, unless the message has it already.
absl::Status NameNode(const absl::Status& status, const std::string& node_id) {
  const std::string message(status.message());
  if (node_id.empty() || message.find("'" + node_id + "'") != std::string::npos) return status;
  return absl::Status(status.code(), fmt::format("CPU attention node '{}': {}", node_id, message));
}

}  // namespace

void TurnCloser::CloseDone() {
  const absl::Status device_status = device_->status();
  std::vector<Sequence*> done;
  sequences_->ForEach([&](Sequence& sequence) {
    if (!device_status.ok()) sequence.Fail(device_status, kNoNode);
    if (sequence.is(SequenceState::kAnswered) || !sequence.failure.ok()) done.push_back(&sequence);
  });
  for (Sequence* sequence : done) {
    if (sequence->is(SequenceState::kAnswered) && !sequence->plan.keep) {
      End(*sequence, absl::OkStatus(), kNoNode);  // an answer is complete, whatever came after it
    } else if (!sequence->failure.ok()) {
      End(*sequence, absl::Status(sequence->failure), sequence->failed_node);
    } else {
      Keep(*sequence);
    }
  }
}

void TurnCloser::End(Sequence& sequence, const absl::Status& status, NodeIdx node) {
  const SequenceId id = sequence.id();
  const std::unique_ptr<Sequence> ended = Remove(sequence);
  if (status.ok()) {
    ended->failure = absl::OkStatus();
  } else {
    ended->Fail(status, node);
    CountFailure(status);
  }
  const std::string node_id = node == kNoNode ? "" : nodes_->node_id(node);
  events_->OnEnded(id, NameNode(status, node_id), node_id, MakeSummary(*ended, *nodes_));
}

void TurnCloser::Discard(Sequence& sequence) { Remove(sequence); }

void TurnCloser::Refuse(SequenceId id, const absl::Status& status, const std::string& blamed,
                        const SequenceSummary& summary) {
  CountFailure(status);
  events_->OnEnded(id, NameNode(status, blamed), blamed, summary);
}

void TurnCloser::Keep(Sequence& sequence) {
  TakeTraffic(sequence);
  sequence.Apply(SequenceEvent::kKeep);
  events_->OnKept(sequence.id(), MakeSummary(sequence, *nodes_));
}

std::unique_ptr<Sequence> TurnCloser::Remove(Sequence& sequence) {
  prefills_->Forget(sequence);
  TakeTraffic(sequence);
  spill_->Drop(sequence.id());
  device_->ReleaseResident(sequence.resident);
  sequence.Apply(SequenceEvent::kEnd);
  return sequences_->Remove(sequence.id());
}

void TurnCloser::TakeTraffic(Sequence& sequence) {
  const SpillSender::Traffic traffic = spill_->TakeTraffic(sequence.id());
  sequence.bytes_sent += traffic.sent;
  sequence.bytes_received += traffic.received;
}

void TurnCloser::CountFailure(const absl::Status& status) {
  // Not raw_code(): a status may have come over the wire with a code that nobody knows.
  if (metrics_ != nullptr) metrics_->sequences_failed[static_cast<size_t>(status.code())].Increment();
}

}  // namespace tributary
