// Sequences that stand still although nothing of theirs is lost: the worker says that a node which holds their KV is
// silent, or the worker is silent itself. Their clients are told, steps leave them out, and a stall that lasts longer
// than its sequence allows ends it. Holds no state of its own. Thread-compatible.
#pragma once

#include <string>

#include "coordinator/core/core_parts.h"
#include "coordinator/core/sequence_ends.h"

namespace tributary {

class SequenceStalls {
 public:
  // Both outlive this.
  SequenceStalls(CoreParts* parts, SequenceEnds* ends) : parts_(*parts), ends_(*ends) {}

  void On(event::WorkerStalled& e);
  void On(event::WorkerResumed& e);

  // The worker of this stream is not heard of, or is again.
  void WorkerFellSilent(StreamId stream);
  void WorkerSpoke(StreamId stream);
  // KV of the sequence is lost with this node or worker; it has a token again.
  void BeginRebuild(SequenceEntry& sequence, const std::string& node_id);
  void EndRebuild(SequenceEntry& sequence);
  // Ends the sequences that have waited for a silent worker for as long as they may. For nodes, the worker does that.
  void EndTooLong();

 private:
  // The first cause of a stall is told to the client, and the end of the last one.
  void Begin(SequenceEntry& sequence, const std::string& who);
  void EndIfOver(SequenceEntry& sequence);

  CoreParts& parts_;
  SequenceEnds& ends_;
};

}  // namespace tributary
