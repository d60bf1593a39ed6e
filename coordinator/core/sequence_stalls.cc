#include "coordinator/core/sequence_stalls.h"

#include "base/clock.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// Of these the client waits for something that only the worker can give.
bool Waits(const SequenceEntry& sequence) {
  return sequence.phase() == SequencePhase::kPrefilling || sequence.phase() == SequencePhase::kDecoding;
}

}  // namespace

void SequenceStalls::On(event::WorkerStalled& e) {
  parts_.workers.Heard(e.stream, parts_.now_ns);
  SequenceEntry* sequence = parts_.sequences.FindOn(e.stream, e.stalled.sequence_id);
  if (sequence == nullptr || !Waits(*sequence)) return;
  sequence->stall.node_id = e.stalled.node_id;
  parts_.workers.Find(e.stream)->scheduler.Suspend(sequence->id);
  Begin(*sequence, e.stalled.node_id);
}

void SequenceStalls::On(event::WorkerResumed& e) {
  parts_.workers.Heard(e.stream, parts_.now_ns);
  SequenceEntry* sequence = parts_.sequences.FindOn(e.stream, e.resumed.sequence_id);
  if (sequence == nullptr) return;
  sequence->stall.node_id.clear();
  parts_.workers.Find(e.stream)->scheduler.Resume(sequence->id);
  EndIfOver(*sequence);
}

void SequenceStalls::WorkerFellSilent(StreamId stream) {
  for (const SequenceId id : parts_.sequences.Ids()) {
    SequenceEntry* sequence = parts_.sequences.FindOn(stream, id);
    if (sequence == nullptr || !Waits(*sequence) || sequence->stall.worker_silent) continue;
    sequence->stall.worker_silent = true;
    sequence->stall.worker_silent_since_ns = parts_.patient_now_ns;
    Begin(*sequence, sequence->worker_id);
  }
}

void SequenceStalls::WorkerSpoke(StreamId stream) {
  // What it owed while it stood still, it owes from now on.
  parts_.workers.Heard(stream, parts_.now_ns);
  if (WorkerPool::Worker* worker = parts_.workers.Find(stream)) worker->scheduler.ForgiveUntil(parts_.now_ns);
  for (const SequenceId id : parts_.sequences.Ids()) {
    SequenceEntry* sequence = parts_.sequences.FindOn(stream, id);
    if (sequence == nullptr || !sequence->stall.worker_silent) continue;
    sequence->stall.worker_silent = false;
    EndIfOver(*sequence);
  }
}

void SequenceStalls::BeginRebuild(SequenceEntry& sequence, const std::string& node_id) {
  SequenceStallCauses& stall = sequence.stall;
  if (!stall.told) stall.told_ns = parts_.patient_now_ns;
  stall.node_id.clear();
  stall.worker_silent = false;
  stall.rebuilding = stall.told = true;
  using Reason = RequestStalled::Reason;
  if (sequence.client) parts_.out.Push(action::Stalled{*sequence.client, {node_id, Reason::kRebuilding}});
}

void SequenceStalls::EndRebuild(SequenceEntry& sequence) {
  sequence.stall.rebuilding = false;
  EndIfOver(sequence);
}

void SequenceStalls::EndTooLong() {
  for (const SequenceId id : parts_.sequences.Ids()) {
    SequenceEntry& sequence = *parts_.sequences.Find(id);
    if (!sequence.stall.worker_silent || !Waits(sequence)) continue;
    const int64_t stalled_ns = parts_.patient_now_ns - sequence.stall.worker_silent_since_ns;
    if (stalled_ns < sequence.max_stall_ns) continue;
    ends_.FailLost(sequence, fmt::format("GPU worker '{}' has been silent for {:.1f} s, as long as this request may "
                                         "wait (max_stall)",
                                         sequence.worker_id, SecondsFromNs(stalled_ns)));
  }
}

void SequenceStalls::Begin(SequenceEntry& sequence, const std::string& who) {
  if (sequence.stall.told) return;
  sequence.stall.told = true;
  sequence.stall.told_ns = parts_.patient_now_ns;
  if (sequence.client) parts_.out.Push(action::Stalled{*sequence.client, {who}});
}

void SequenceStalls::EndIfOver(SequenceEntry& sequence) {
  const SequenceStallCauses& stall = sequence.stall;
  if (!stall.told || stall.worker_silent || stall.rebuilding || !stall.node_id.empty()) return;
  sequence.stall.told = false;
  if (sequence.client) parts_.out.Push(action::Resumed{*sequence.client});
}

}  // namespace tributary
