// The coordinator's decisions: membership, admission, placement, continuous batching, and the end
// of every sequence.
//
// Pure: Step(event, now) -> actions. No clock, socket, thread or protobuf;
// tests/scenarios/coordinator tells its stories.
//
// What holds after every step:
//   - every shard that was asked for is in the ledger until its node said it is closed, refused it,
//   or died;
//   - a client gets exactly one Finish, and nothing after it;
//   - at most two steps are in flight per worker;
//   - a kept sequence holds its memory until it is continued or its lease ends;
//   - a sequence's shards are closed only once its worker let go of it (or is gone, or stayed
//   silent).
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "coordinator/core/admission.h"
#include "coordinator/core/coordinator_events.h"
#include "coordinator/core/ended_leases.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/placement.h"
#include "coordinator/core/sequence_table.h"
#include "coordinator/core/shard_ledger.h"
#include "coordinator/core/step_scheduler.h"
#include "fmt/format.h"

namespace tributary {

struct CoordinatorConfig {
  uint32_t protocol_version = 0;
  AdmissionLimits admission;
  PlacementOptions defaults;     // complete
  int64_t node_timeout_ns = 0;   // silent for half of it: suspect; for all of it: dead
  int64_t step_timeout_ns = 0;   // the worker's deadline for one step
  int64_t stall_timeout_ns = 0;  // a step or all prefills without a word for this long: the worker is given up
  int64_t stop_timeout_ns = 0;   // for a worker's word after StopSequence
  int64_t orphan_grace_ns = 0;
  int64_t close_retry_ns = 0;
  int64_t forget_after_ns = 0;  // dead members stay in the status for this long
  // First sequence, shard and step ids: above those of an earlier run, whose shards may still lie
  // on the nodes.
  uint64_t first_id = 1;
};

struct MemberStatus {
  Member member;
  uint32_t shards = 0;
  uint32_t sequences = 0;
  uint64_t available_bytes = 0;
};

struct KeptStatus {
  std::string request_id;
  SequenceId sequence_id;
  std::string worker_id;
  int64_t kept_until_ns = 0;
  uint64_t context_tokens = 0;
  uint64_t reserved_context_tokens = 0;
  uint64_t resident_bytes = 0;
  uint64_t shard_bytes = 0;
};

struct ClusterStatus {
  uint64_t membership_epoch = 0;
  std::vector<MemberStatus> members;
  std::optional<ModelGeometry> geometry;
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint32_t shards = 0;
  uint64_t finished = 0;
  uint64_t failed = 0;
  std::vector<KeptStatus> kept;  // in none of the counts above
};

// Thread-compatible.
class CoordinatorCore {
 public:
  explicit CoordinatorCore(const CoordinatorConfig& config);

  // Actions are carried out in order. REQUIRES: now_ns never falls.
  std::vector<Action> Step(Event event, int64_t now_ns);

  // Nothing runs, waits or is held.
  bool idle() const { return sequences_.size() == 0 && ledger_.size() == 0; }
  ClusterStatus status() const;

 private:
  struct Worker {
    std::string node_id;
    uint64_t incarnation = 0;
    StepScheduler scheduler;
    std::set<SequenceId> sequences;
    uint64_t resident_bytes = 0;  // reserved by its sequences
    int64_t heard_ns = 0;         // its last word about a sequence; heartbeats do not count
  };

  // coordinator_core.cc: nodes, workers, time.
  void On(event::Register& e);
  void On(event::Heartbeat& e);
  void On(event::WorkerHello& e);
  void On(event::WorkerHeartbeat& e);
  void On(event::WorkerLost& e);
  void On(event::Tick& e);
  void ApplyChanges(const std::vector<MemberChange>& changes);
  void DropNode(const NodeDescription& node);
  // Strikes a dead node off the sequence's holders. True if a shard is lost with it.
  bool LosesShard(SequenceEntry& sequence, const NodeDescription& node);
  void DropWorker(StreamId stream, const std::string& why);
  // Ends a sequence of which something is lost.
  void FailLost(SequenceEntry& sequence, const std::string& why);
  void GiveUpStalledWorkers();
  // True if it prefills and has said nothing about any sequence for too long.
  bool HangsInPrefill(const Worker& worker);
  void HeardOf(StreamId stream);
  ClusterRoom Room() const;
  std::optional<ServingLimits> Limits() const;

  // coordinator_turns.cc: kept sequences.
  void Continue(event::Generate& e);
  // NOT_FOUND, FAILED_PRECONDITION or what CheckContinuation says; else *sequence.
  absl::Status FindContinued(const GenerateSpec& spec, SequenceEntry** sequence);
  // The sequence will not be continued any more: remembers why.
  void EndLease(SequenceEntry& sequence, action::LeaseEnd end, const absl::Status& why);
  // Lets go of a kept sequence.
  void EndKept(SequenceEntry& sequence, action::LeaseEnd end, const absl::Status& why);
  void EndExpired();
  // Those whose worker or nodes finish what they have and take nothing new.
  void EndDraining();
  // OK, or who drains.
  absl::Status Drains(const SequenceEntry& sequence) const;
  uint32_t NumKept() const;  // kept now, or will be
  std::vector<KeptStatus> KeptStatuses() const;

  // coordinator_requests.cc: sequences, from Generate to release.
  void On(event::Generate& e);
  void On(event::ClientGone& e);
  void On(event::Cancel& e);
  void On(event::ShardOpened& e);
  void On(event::ShardClosed& e);
  void On(event::WorkerPrefill& e);
  void On(event::WorkerTokens& e);
  void On(event::WorkerStepDone& e);
  void On(event::WorkerEnded& e);
  void On(event::WorkerKept& e);
  void On(event::Drain& e);
  void On(event::Abort& e);
  absl::Status Admit(GenerateSpec& spec, std::string_view* reason);
  void Reject(CallId call, absl::Status status, std::string_view reason, bool may_retry);
  void StartQueued();
  void OpenShards(SequenceEntry& sequence, PlacementPlan plan);
  void StartOnWorker(SequenceEntry& sequence);
  void DeliverTokens(StreamId stream, TokenChunk tokens);
  void SendSteps();
  // Answers the client of a turn that ended well.
  void FinishTurn(SequenceEntry& sequence, RequestSummary summary);
  void FinishClient(SequenceEntry& sequence, action::Finish finish);
  // Ends a sequence early; its client, if any, gets `status`.
  void Fail(SequenceEntry& sequence, const absl::Status& status, action::Outcome outcome);
  void Release(SequenceEntry& sequence);
  void SendClose(const Holding& holding);
  SequenceEntry* FindOf(StreamId stream, SequenceId id);
  uint32_t NumPlaced() const;  // running or kept
  int64_t RetryDelay() const;

  template <typename... Args>
  void Log(action::Log::Level level, fmt::format_string<Args...> format, Args&&... args) {
    actions_.push_back(action::Log{level, fmt::format(format, std::forward<Args>(args)...)});
  }

  const CoordinatorConfig config_;
  Membership membership_;
  ShardLedger ledger_;
  SequenceTable sequences_;
  std::deque<SequenceId> queue_;
  EndedLeases ended_leases_;
  std::map<StreamId, Worker> workers_;
  bool draining_ = false;
  uint64_t next_sequence_id_;
  uint64_t next_shard_id_;
  uint64_t next_epoch_ = 1;
  uint64_t num_finished_ = 0;
  uint64_t num_failed_ = 0;
  double mean_duration_s_ = 1.0;

  // Of the step that is being made.
  int64_t now_ns_ = 0;
  std::vector<Action> actions_;
};

}  // namespace tributary
