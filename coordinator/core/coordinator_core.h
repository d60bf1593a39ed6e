// The coordinator's decisions: membership, admission, placement, continuous batching, and the end of every sequence.
//
// Pure: Step(event, now) -> actions. No clock, socket, thread or protobuf; tests/scenarios/coordinator tells its
// stories. Composed of one class for each responsibility (core_parts.h has the list); here is only which of them sees
// which event, and the status.
//
// What holds after every step:
//   - every shard that was asked for is in the ledger, once for each holder, until that node said it is closed, refused
//     it, or died;
//   - a client gets exactly one Finish, and nothing after it;
//   - at most two steps are in flight per worker;
//   - a kept sequence holds its memory until it is continued or its lease ends;
//   - a sequence's shards are closed only once its worker let go of it (or is gone, or stayed silent);
//   - a sequence's phase has changed only as the table of transitions allows (sequence_lifecycle.h).
#pragma once

#include <cstdint>
#include <vector>

#include "cluster/cluster_status.h"
#include "coordinator/core/coordinator_events.h"
#include "coordinator/core/core_parts.h"
#include "coordinator/core/node_watch.h"
#include "coordinator/core/request_intake.h"
#include "coordinator/core/sequence_ends.h"
#include "coordinator/core/sequence_rebuilds.h"
#include "coordinator/core/sequence_stalls.h"
#include "coordinator/core/turn_progress.h"

namespace tributary {

// Thread-compatible.
class CoordinatorCore {
 public:
  explicit CoordinatorCore(const CoordinatorConfig& config);
  CoordinatorCore(const CoordinatorCore&) = delete;
  CoordinatorCore& operator=(const CoordinatorCore&) = delete;

  // Actions are carried out in order. REQUIRES: now_ns never falls.
  std::vector<Action> Step(Event event, int64_t now_ns);

  // Nothing runs, waits or is held.
  bool idle() const { return parts_.sequences.size() == 0 && parts_.shards.ledger().size() == 0; }
  ClusterStatus status() const;

 private:
  void On(event::Tick& e);
  // Any other event goes to the one class that has a handler for it.
  template <typename E>
  void On(E& e);
  std::vector<KeptStatus> KeptStatuses() const;

  CoreParts parts_;
  SequenceEnds ends_;
  SequenceStalls stalls_;
  SequenceRebuilds rebuilds_;
  NodeWatch watch_;
  TurnProgress turns_;
  RequestIntake intake_;
};

}  // namespace tributary
