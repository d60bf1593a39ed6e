// Who is there: nodes and workers come, give signs of life, fall silent, hang, and go; what stood on one that is gone
// is rebuilt elsewhere, or ends. On one that is only silent, nothing new is placed, and what stands there waits. Keeps
// the membership and the worker pool in step. Holds no state of its own. Thread-compatible.
#pragma once

#include <string>
#include <vector>

#include "coordinator/core/core_parts.h"
#include "coordinator/core/sequence_ends.h"
#include "coordinator/core/sequence_rebuilds.h"
#include "coordinator/core/sequence_stalls.h"

namespace tributary {

class NodeWatch {
 public:
  // All outlive this.
  NodeWatch(CoreParts* parts, SequenceEnds* ends, SequenceStalls* stalls, SequenceRebuilds* rebuilds)
      : parts_(*parts), ends_(*ends), stalls_(*stalls), rebuilds_(*rebuilds) {}

  void On(event::Register& e);
  void On(event::Heartbeat& e);
  void On(event::WorkerHello& e);
  void On(event::WorkerHeartbeat& e);
  void On(event::WorkerLost& e);

  // Somebody failed to reach the node: nothing new goes there until it is heard of again.
  void Suspect(const std::string& node_id);
  // Finds who has been silent for too long, and workers that owe an answer for too long.
  void Tick();

 private:
  void Apply(const std::vector<MemberChange>& changes);
  void ApplyToWorker(const MemberChange& change);
  void DropNode(const NodeDescription& node);
  void DropWorker(StreamId stream, const std::string& why);
  void GiveUpStalledWorkers();
  bool IsHeardOf(const WorkerPool::Worker& worker) const;
  // It prefills and has said nothing about any sequence for too long.
  bool HangsInPrefill(StreamId stream, const WorkerPool::Worker& worker) const;

  CoreParts& parts_;
  SequenceEnds& ends_;
  SequenceStalls& stalls_;
  SequenceRebuilds& rebuilds_;
};

}  // namespace tributary
