// What the coordinator's core is put together from: one object of each responsibility, and the step that is being made.
//
// The classes that handle events (RequestIntake, NodeWatch, TurnProgress, SequenceEnds and others) are made with a
// pointer to the parts and use each through its own contract; none of them holds state of its own. Thread-compatible.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "base/patient_clock.h"
#include "base/random_id.h"
#include "coordinator/core/admission.h"
#include "coordinator/core/leases.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/outbox.h"
#include "coordinator/core/placement.h"
#include "coordinator/core/request_queue.h"
#include "coordinator/core/sequence_table.h"
#include "coordinator/core/shard_keeper.h"
#include "coordinator/core/worker_pool.h"

namespace tributary {

struct CoordinatorConfig {
  uint32_t protocol_version = 0;
  AdmissionLimits admission;
  PlacementOptions defaults;  // complete
  // Silent for half of it: suspect; for all of it: dead. Nothing is placed on either, and nothing of theirs is ended.
  int64_t node_timeout_ns = 0;
  // Of the time between two looks, so much counts as silence of others: the rest is our own.
  int64_t max_patience_gap_ns = std::numeric_limits<int64_t>::max();
  int64_t max_stall_ns = 60 * kNsPerS;            // of requests that state none, and the most that one may ask for
  uint64_t max_token_ids = limits::kMaxTokenIds;  // of all sequences together, kept to rebuild them
  int64_t step_timeout_ns = 0;                    // the worker's deadline for one step
  // A step or all prefills without a word for this long, from a worker that is heard of: it is given up.
  int64_t stall_timeout_ns = 0;
  int64_t stop_timeout_ns = 0;  // for a worker's word after StopSequence
  int64_t orphan_grace_ns = 0;
  int64_t close_retry_ns = 0;
  int64_t forget_after_ns = 0;  // dead members stay in the status for this long
  // Random in production: ids of an earlier run, whose shards may still lie on nodes, do not come again.
  IdSource sequence_ids = RandomId;
  IdSource shard_ids = RandomId;
};

struct CoreParts {
  explicit CoreParts(const CoordinatorConfig& config)
      : config(config),
        patience(config.max_patience_gap_ns),
        membership(
            {config.protocol_version, config.node_timeout_ns / 2, config.node_timeout_ns, config.forget_after_ns}),
        shards(config.orphan_grace_ns, config.close_retry_ns, config.shard_ids),
        queue(config.admission.max_queue) {}

  // Sequences that have a place: they run or are kept.
  uint32_t num_placed() const { return static_cast<uint32_t>(sequences.size() - queue.size()); }
  ClusterRoom Room() const { return {workers.Rooms(membership, patient_now_ns), shards.Rooms(membership)}; }
  int64_t RetryDelay() const { return queue.RetryDelay(num_placed()); }

  const CoordinatorConfig config;
  PatientClock patience;
  Membership membership;
  WorkerPool workers;
  ShardKeeper shards;
  SequenceTable sequences;
  RequestQueue queue;
  Leases leases;
  bool draining = false;   // nothing new is taken
  uint64_t token_ids = 0;  // that are promised a place (CoordinatorConfig::max_token_ids)
  uint64_t next_epoch = 1;
  uint64_t num_finished = 0;  // requests
  uint64_t num_failed = 0;

  // These are of the step that is being made.
  int64_t now_ns = 0;
  int64_t patient_now_ns = 0;  // for judging others: passes only while we look
  Outbox out;
};

}  // namespace tributary
