// What goes into CoordinatorCore::Step() and what comes out. The adapter (coordinator_service)
// turns RPCs into events and carries actions out; it decides nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "cluster/cluster_types.h"
#include "cluster/generate_request.h"
#include "cluster/node_endpoint.h"
#include "cluster/sequence_plan.h"
#include "cluster/sequence_summary.h"
#include "cluster/shard_spec.h"
#include "cluster/worker_event.h"
#include "cluster/worker_identity.h"

namespace tributary {

// One RPC that waits for an answer, and one worker's stream; numbered by the adapter, never reused.
using CallId = StrongId<struct CallIdTag, uint64_t>;
using StreamId = StrongId<struct StreamIdTag, uint64_t>;

namespace event {

// CPU attention nodes.
struct Register {
  CallId call;
  NodeDescription node;
};
struct Heartbeat {
  CallId call;
  NodeHeartbeat heartbeat;
};
// The answer to action::OpenShard or CloseShard; each gets exactly one, within the adapter's
// deadline.
struct ShardOpened {
  ShardId shard_id;
  std::string node_id;
  absl::Status status;
};
struct ShardClosed {
  ShardId shard_id;
  std::string node_id;
  absl::Status status;
};

// GPU workers.
struct WorkerHello {
  StreamId stream;
  NodeDescription node;
};
struct WorkerHeartbeat {
  StreamId stream;
  WorkerLoad load;
};
struct WorkerPrefill {
  StreamId stream;
  PrefillProgress progress;
};
struct WorkerTokens {
  StreamId stream;
  SequenceTokens tokens;
};
struct WorkerStepDone {
  StreamId stream;
  StepDone done;
};
struct WorkerEnded {
  StreamId stream;
  SequenceEnded ended;
};
// A turn has ended well, and the worker keeps the sequence.
struct WorkerKept {
  StreamId stream;
  SequenceKept kept;
};
struct WorkerStalled {
  StreamId stream;
  SequenceStalled stalled;
};
struct WorkerResumed {
  StreamId stream;
  SequenceResumed resumed;
};
struct WorkerLost {
  StreamId stream;
};

// Clients.
struct Generate {
  CallId call;
  GenerateSpec spec;
};
struct ClientGone {
  CallId call;
};
struct Cancel {
  CallId call;
  std::string request_id;
};

struct Tick {};
// No new requests; what runs goes on.
struct Drain {};
// Ends everything that is left.
struct Abort {};

}  // namespace event

using Event =
    std::variant<event::Register, event::Heartbeat, event::ShardOpened, event::ShardClosed, event::WorkerHello,
                 event::WorkerHeartbeat, event::WorkerPrefill, event::WorkerTokens, event::WorkerStepDone,
                 event::WorkerEnded, event::WorkerKept, event::WorkerStalled, event::WorkerResumed, event::WorkerLost,
                 event::Generate, event::ClientGone, event::Cancel, event::Tick, event::Drain, event::Abort>;

// A worker's word, as it came over its stream.
Event EventOf(StreamId stream, WorkerEvent word);

namespace action {

struct ReplyRegister {
  CallId call;
  absl::Status status;
  uint64_t membership_epoch = 0;
};
struct ReplyHeartbeat {
  CallId call;
  absl::Status status;
  uint64_t membership_epoch = 0;
  std::vector<ShardId> orphans;
};
struct ReplyCancel {
  CallId call;
  absl::Status status;
};

// Opens the shard on one of its holders, for the worker of its sequence alone.
struct OpenShard {
  ShardSpec spec;
  NodeEndpoint holder;
  WorkerIdentity worker;
};
struct CloseShard {
  ShardId shard_id;
  Epoch epoch;
  NodeEndpoint holder;
};

struct Welcome {
  StreamId stream;
  uint64_t membership_epoch = 0;
};
// Ends the stream; no event::WorkerLost is needed for it.
struct CloseStream {
  StreamId stream;
  absl::Status status;
};
struct StartSequence {
  StreamId stream;
  SequencePlan plan;
};
// The next turn of a kept sequence.
struct ContinueSequence {
  StreamId stream;
  ContinuePlan plan;
};
struct TakeStep {
  StreamId stream;
  StepCommand step;
};
struct StopSequence {
  StreamId stream;
  StopCommand stop;
};

// Tells the client of a Generate call that its request is accepted.
struct Accepted {
  CallId call;
  RequestAccepted accepted;
};
struct Prefill {
  CallId call;
  PrefillProgress progress;
};
struct Tokens {
  CallId call;
  SequenceTokens tokens;
  bool first = false;
  int64_t since_last_ns = 0;  // since the request came, for the first tokens
};
// The sequence stands still. May come again with another reason, before Resumed.
struct Stalled {
  CallId call;
  RequestStalled stalled;
};
struct Resumed {
  CallId call;
};
enum class Outcome { kOk, kCancelled, kRejected, kFailed };
std::string_view OutcomeName(Outcome outcome);
// The last action of a call.
struct Finish {
  CallId call;
  absl::Status status;
  Outcome outcome = Outcome::kOk;
  int64_t retry_delay_ns = 0;      // RESOURCE_EXHAUSTED that may pass: when to try again
  std::string_view reject_reason;  // kRejected: invalid, exhausted, unavailable or draining
  RequestSummary summary;          // kOk
  int64_t duration_ns = 0;
  uint64_t prompt_tokens = 0;
};

// A sequence is not kept any more.
enum class LeaseEnd { kContinued, kExpired, kCancelled, kLost, kDrained };
inline constexpr size_t kNumLeaseEnds = 5;
std::string_view LeaseEndName(LeaseEnd end);  // "continued" ...
struct EndLease {
  std::string request_id;
  SequenceId sequence_id;
  LeaseEnd end = LeaseEnd::kExpired;
};

// A sequence of which KV was lost goes on, or ends.
enum class RebuildCause { kNode, kWorker };
inline constexpr size_t kNumRebuildCauses = 2;
std::string_view RebuildCauseName(RebuildCause cause);  // "node" ...
enum class RebuildResult {
  kOk,         // it goes on, or its answer was complete
  kFailed,     // it has ended with an error
  kCancelled,  // nobody waits for it any more
  kRefused,    // it may not be rebuilt (again)
};
inline constexpr size_t kNumRebuildResults = 4;
std::string_view RebuildResultName(RebuildResult result);  // "ok" ...
struct EndRebuild {
  RebuildCause cause = RebuildCause::kNode;
  RebuildResult result = RebuildResult::kOk;
};

struct Log {
  enum class Level { kInfo, kWarn } level = Level::kInfo;
  std::string text;
};

}  // namespace action

using Action = std::variant<action::ReplyRegister, action::ReplyHeartbeat, action::ReplyCancel, action::OpenShard,
                            action::CloseShard, action::Welcome, action::CloseStream, action::StartSequence,
                            action::ContinueSequence, action::TakeStep, action::StopSequence, action::Accepted,
                            action::Prefill, action::Tokens, action::Stalled, action::Resumed, action::Finish,
                            action::EndLease, action::EndRebuild, action::Log>;

}  // namespace tributary
