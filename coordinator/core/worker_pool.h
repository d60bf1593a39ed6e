// The GPU workers that have a stream to this coordinator: what each has taken on, and the steps it is in.
//
// Owns each worker's step scheduler and the count of what its sequences have reserved; whether a worker is alive is the
// membership's to say. Pure: time is an argument. Thread-compatible.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "cluster/worker_identity.h"
#include "coordinator/core/admission.h"
#include "coordinator/core/coordinator_events.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/pair_suspicion.h"
#include "coordinator/core/placement.h"
#include "coordinator/core/step_scheduler.h"

namespace tributary {

class WorkerPool {
 public:
  struct Worker {
    std::string node_id;
    uint64_t incarnation = 0;
    StepScheduler scheduler;
    uint32_t sequences = 0;       // that are on it: placed and not yet released
    uint64_t resident_bytes = 0;  // reserved by them
    int64_t heard_ns = 0;         // its last word about a sequence; heartbeats do not count
    PairSuspicion suspects;       // nodes that it could not reach

    WorkerIdentity identity() const { return {node_id, incarnation}; }
  };

  // REQUIRES: the stream is new, and no other stream is of this node.
  void Add(StreamId stream, const NodeDescription& node);
  // REQUIRES: the stream is there. Its sequences are the caller's to end.
  void Remove(StreamId stream);

  // nullptr for a stream that is not there: never was, or is over.
  Worker* Find(StreamId stream);
  const Worker* Find(StreamId stream) const;
  std::optional<StreamId> StreamOf(const std::string& node_id) const;
  // Returns all workers by their streams.
  const std::map<StreamId, Worker>& all() const { return workers_; }

  // A sequence comes to the worker of this stream, and leaves it. REQUIRES: the stream is there, and Release() follows
  // one Assign() of the same bytes.
  void Assign(StreamId stream, uint64_t resident_bytes);
  void Release(StreamId stream, SequenceId sequence, uint64_t resident_bytes);

  // It has said something about a sequence. Unknown streams are ignored.
  void Heard(StreamId stream, int64_t now_ns);

  struct DueStep {
    StreamId stream;
    StepScheduler::Step step;
  };
  // The steps to send now, by stream.
  std::vector<DueStep> TakeSteps(int64_t now_ns);

  // Another process has the node's name now: nothing is held against it.
  void NodeCameAnew(const std::string& node_id);
  // Returns the room of the workers that could take a sequence, now or after a moment of silence.
  std::vector<WorkerRoom> Rooms(const Membership& membership, int64_t now_ns) const;
  // What a request must suit: the lowest limits of these workers. Nothing if there is no worker.
  std::optional<ServingLimits> Limits(const Membership& membership) const;

 private:
  std::map<StreamId, Worker> workers_;
};

}  // namespace tributary
