// A placed sequence's way through its turns: its shards are opened, the worker starts it, tokens come, the turn ends,
// the sequence is kept or let go. And the steps that carry it. Holds no state of its own. Thread-compatible.
#pragma once

#include "coordinator/core/core_parts.h"
#include "coordinator/core/node_watch.h"
#include "coordinator/core/sequence_ends.h"
#include "coordinator/core/sequence_rebuilds.h"

namespace tributary {

class TurnProgress {
 public:
  // All outlive this.
  TurnProgress(CoreParts* parts, SequenceEnds* ends, NodeWatch* watch, SequenceRebuilds* rebuilds)
      : parts_(*parts), ends_(*ends), watch_(*watch), rebuilds_(*rebuilds) {}

  // A waiting sequence gets its place. REQUIRES: the plan was made for what is there now.
  void Place(SequenceEntry& sequence, PlacementPlan plan);
  // The next turn of a kept sequence begins, for this client. REQUIRES: it is kept, and the request suits it.
  void Continue(SequenceEntry& sequence, CallId call, GenerateSpec spec);
  // Sends every step that is due.
  void SendSteps();

  // Words about sequences that are not there, not on that worker, or not so far, are ignored: they crossed with ours.
  void On(event::ShardOpened& e);
  void On(event::ShardClosed& e);
  void On(event::WorkerPrefill& e);
  void On(event::WorkerTokens& e);
  void On(event::WorkerStepDone& e);
  void On(event::WorkerEnded& e);
  void On(event::WorkerKept& e);

 private:
  void StartOnWorker(SequenceEntry& sequence);
  // A shard of the sequence is not opened, because of this node. True: it begins anew at another place.
  bool TryElsewhere(SequenceEntry& sequence, const std::string& node_id, const absl::Status& why);
  void Deliver(StreamId stream, SequenceTokens tokens);
  // The sequence has its first tokens of this turn, or of this place.
  void BeginDecoding(StreamId stream, SequenceEntry& sequence, uint64_t num_tokens);

  CoreParts& parts_;
  SequenceEnds& ends_;
  NodeWatch& watch_;
  SequenceRebuilds& rebuilds_;
};

}  // namespace tributary
