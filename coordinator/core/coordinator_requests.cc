// The sequences' half of CoordinatorCore: from Generate to the release of the last shard.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "coordinator/core/coordinator_core.h"
#include "fmt/format.h"
#include "kv_store/shard_needs.h"

namespace tributary {
namespace {

using Level = action::Log::Level;
using action::Outcome;

std::string_view ReasonOf(const absl::Status& status) {
  return absl::IsUnavailable(status) ? "unavailable" : "exhausted";
}

}  // namespace

absl::Status CoordinatorCore::Admit(GenerateSpec& spec, std::string_view* reason) {
  if (draining_) {
    *reason = "draining";
    return absl::UnavailableError("this coordinator is shutting down and takes no new requests");
  }
  const std::optional<ServingLimits> limits = Limits();
  if (!limits) {
    *reason = "unavailable";
    return absl::UnavailableError(
        "no GPU worker takes requests (none is registered, or all are draining); start "
        "tributary-gpu-worker");
  }
  *reason = "invalid";
  spec.placement = ResolvePlacement(spec.placement, config_.defaults);
  if (absl::Status status = CheckRequest(spec, *limits); !status.ok()) return status;
  absl::StatusOr<PolicyParams> policy = ResolveRequestPolicy(spec, *limits);
  if (!policy.ok()) return policy.status();
  spec.resolved_policy = *std::move(policy);
  if (!spec.request_id.empty() && sequences_.FindByRequest(spec.request_id) != nullptr) {
    return absl::AlreadyExistsError(
        fmt::format("request_id '{}' is in use by a running request or a kept sequence; choose another, or "
                    "continue the sequence with continue_request_id",
                    spec.request_id));
  }
  return absl::OkStatus();
}

void CoordinatorCore::Reject(CallId call, absl::Status status, std::string_view reason, bool may_retry) {
  action::Finish finish{call, std::move(status), Outcome::kRejected};
  finish.reject_reason = reason;
  if (may_retry) finish.retry_delay_ns = RetryDelay();
  actions_.push_back(std::move(finish));
}

void CoordinatorCore::On(event::Generate& e) {
  if (!e.spec.continue_request_id.empty()) return Continue(e);
  std::string_view reason;
  if (absl::Status status = Admit(e.spec, &reason); !status.ok()) {
    Reject(e.call, std::move(status), reason, false);
    return;
  }
  if (e.spec.keep.asked() && NumKept() >= config_.admission.max_kept) {
    Reject(e.call,
           absl::ResourceExhaustedError(
               fmt::format("{} sequences are kept or will be, which is all that may be; try again later, "
                           "without keep, or let go of one with Cancel",
                           NumKept())),
           "exhausted", true);
    return;
  }
  SequenceEntry sequence;
  sequence.keep = e.spec.keep;
  sequence.context_tokens = e.spec.prompt_tokens.size();
  sequence.reserved_context_tokens =
      std::max<uint64_t>(e.spec.keep.max_context_tokens, e.spec.prompt_tokens.size() + e.spec.max_tokens);
  sequence.demand.geometry = Limits()->geometry;
  sequence.demand.prompt_tokens = e.spec.prompt_tokens.size();
  sequence.demand.max_context_tokens = sequence.reserved_context_tokens - 1;
  sequence.demand.placement = e.spec.placement;
  sequence.demand.policy = e.spec.resolved_policy;
  PlacementResult placed = Place(Room(), sequence.demand);
  if (!placed.status.ok() && !placed.may_wait) {
    Reject(e.call, placed.status, ReasonOf(placed.status), false);
    return;
  }
  const bool starts_now = placed.status.ok() && queue_.empty() && NumPlaced() < config_.admission.max_running;
  if (!starts_now && queue_.size() >= config_.admission.max_queue) {
    Reject(
        e.call,
        absl::ResourceExhaustedError(fmt::format(
            "{} requests run and {} wait, which is all the queue takes; try again later", NumPlaced(), queue_.size())),
        "exhausted", true);
    return;
  }
  sequence.id = SequenceId(next_sequence_id_++);
  sequence.client = e.call;
  sequence.request_id = e.spec.request_id.empty() ? fmt::format("request-{}", sequence.id.value) : e.spec.request_id;
  sequence.spec = std::move(e.spec);
  sequence.spec.request_id = sequence.request_id;
  sequence.received_ns = now_ns_;
  queue_.push_back(sequences_.Add(std::move(sequence))->id);
}

// Strictly in order of arrival: a large request is never overtaken for ever by small ones.
void CoordinatorCore::StartQueued() {
  while (!queue_.empty() && NumPlaced() < config_.admission.max_running) {
    SequenceEntry& sequence = *sequences_.Find(queue_.front());
    PlacementResult placed = Place(Room(), sequence.demand);
    if (!placed.status.ok() && placed.may_wait) return;
    if (!placed.status.ok()) {
      Fail(sequence, placed.status, Outcome::kFailed);
      continue;
    }
    queue_.pop_front();
    OpenShards(sequence, std::move(placed.plan));
  }
}

void CoordinatorCore::OpenShards(SequenceEntry& sequence, PlacementPlan plan) {
  sequence.state = SequencePhase::kOpening;
  sequence.epoch = Epoch(next_epoch_++);
  sequence.placed_ns = now_ns_;
  sequence.worker_id = plan.worker_id;
  sequence.resident_bytes = plan.resident_bytes;
  for (auto& [stream, worker] : workers_) {
    if (worker.node_id != plan.worker_id) continue;
    sequence.worker = stream;
    worker.sequences.insert(sequence.id);
    worker.resident_bytes += plan.resident_bytes;
  }
  TRIBUTARY_CHECK(sequence.worker.has_value());
  actions_.push_back(
      action::Accepted{*sequence.client, sequence.request_id, sequence.id, sequence.epoch, sequence.worker_id});
  sequence.shards = std::move(plan.shards);
  for (ShardPlacement& shard : sequence.shards) {
    shard.spec.shard_id = ShardId(next_shard_id_++);
    shard.spec.sequence_id = sequence.id;
    shard.spec.epoch = sequence.epoch;
    for (const NodeEndpoint& holder : shard.holders) {
      const NodeDescription& node = membership_.Find(holder.node_id)->node;
      const absl::StatusOr<uint64_t> bytes = ShardReservedBytes(shard.spec, node.extent_bytes);
      TRIBUTARY_CHECK(bytes.ok());  // Place() has asked for the same
      ledger_.Reserve({shard.spec.shard_id, sequence.id, sequence.epoch, holder, *bytes});
      ++sequence.holders_opening;
      actions_.push_back(action::OpenShard{shard.spec, holder});
    }
  }
  if (sequence.holders_opening == 0) StartOnWorker(sequence);
}

void CoordinatorCore::StartOnWorker(SequenceEntry& sequence) {
  sequence.state = SequencePhase::kPrefilling;
  sequence.started_ns = now_ns_;
  // The worker gets the prompt; the coordinator keeps only what it needs to count and report.
  GenerateSpec spec = std::exchange(sequence.spec, {});
  sequence.spec.max_tokens = spec.max_tokens;
  sequence.spec.resolved_policy = spec.resolved_policy;
  actions_.push_back(
      action::StartSequence{*sequence.worker, sequence.id, sequence.epoch, std::move(spec), sequence.shards});
}

void CoordinatorCore::On(event::ShardOpened& e) {
  const Holding* found = ledger_.Find(e.shard_id, e.node_id);
  if (found == nullptr) return;
  const Holding holding = *found;
  const ShardLedger::OpenResult result = ledger_.OnOpened(e.shard_id, e.node_id, e.status);
  if (result.next == ShardLedger::Next::kSendClose) SendClose(holding);
  SequenceEntry* sequence = sequences_.Find(holding.sequence_id);
  if (sequence == nullptr || sequence->state != SequencePhase::kOpening) return;
  if (result.opened) {
    if (--sequence->holders_opening == 0) StartOnWorker(*sequence);
    return;
  }
  if (e.status.ok()) return;
  if (!absl::IsResourceExhausted(e.status) && !absl::IsInvalidArgument(e.status)) {
    std::vector<MemberChange> changes;
    membership_.Suspect(e.node_id, &changes);
    ApplyChanges(changes);
  }
  Fail(*sequence,
       absl::Status(e.status.code(), fmt::format("CPU attention node '{}' did not open a shard: {}", e.node_id,
                                                 std::string(e.status.message()))),
       Outcome::kFailed);
}

void CoordinatorCore::On(event::ShardClosed& e) { ledger_.OnClosed(e.shard_id, e.node_id, e.status, now_ns_); }

void CoordinatorCore::On(event::WorkerPrefill& e) {
  HeardOf(e.stream);
  SequenceEntry* sequence = FindOf(e.stream, e.sequence_id);
  if (sequence == nullptr || !sequence->client) return;
  actions_.push_back(action::Prefill{*sequence->client, e.layers_done, e.num_layers, e.fraction});
}

void CoordinatorCore::On(event::WorkerTokens& e) {
  HeardOf(e.stream);
  DeliverTokens(e.stream, std::move(e.tokens));
}

void CoordinatorCore::On(event::WorkerStepDone& e) {
  HeardOf(e.stream);
  const auto it = workers_.find(e.stream);
  if (it == workers_.end()) return;
  if (!it->second.scheduler.OnDone(e.step_id)) {
    Log(Level::kWarn, "worker '{}' answered step {}, which was not in flight", it->second.node_id, e.step_id.value);
    return;
  }
  for (TokenChunk& tokens : e.tokens) DeliverTokens(e.stream, std::move(tokens));
}

void CoordinatorCore::DeliverTokens(StreamId stream, TokenChunk tokens) {
  SequenceEntry* sequence = FindOf(stream, tokens.sequence_id);
  if (sequence == nullptr || tokens.tokens.empty()) return;
  if (sequence->state != SequencePhase::kPrefilling && sequence->state != SequencePhase::kDecoding) {
    return;
  }
  const bool first = sequence->state == SequencePhase::kPrefilling;
  const uint64_t num_tokens = tokens.tokens.size();
  if (first) {
    sequence->state = SequencePhase::kDecoding;
    sequence->first_token_ns = now_ns_;
    sequence->last_token_ns = sequence->received_ns;
    const uint64_t max_tokens = sequence->spec.max_tokens;
    workers_.at(stream).scheduler.Join(sequence->id, max_tokens - std::min(max_tokens, num_tokens));
  }
  sequence->generated_tokens += num_tokens;
  const int64_t since_last_ns = now_ns_ - sequence->last_token_ns;
  sequence->last_token_ns = now_ns_;
  if (sequence->client) {
    actions_.push_back(action::Tokens{*sequence->client, std::move(tokens), first, since_last_ns});
  }
}

void CoordinatorCore::On(event::WorkerEnded& e) {
  HeardOf(e.stream);
  SequenceEntry* sequence = FindOf(e.stream, e.sequence_id);
  if (sequence == nullptr) return;
  if (!e.failed_node_id.empty()) {
    // Nothing new goes to a node that a worker cannot reach, until the node itself is heard again.
    std::vector<MemberChange> changes;
    membership_.Suspect(e.failed_node_id, &changes);
    ApplyChanges(changes);
  }
  if (e.status.ok()) {
    if (sequence->client) FinishTurn(*sequence, std::move(e.summary));
    EndLease(*sequence, action::LeaseEnd::kLost, absl::NotFoundError("its last request did not ask to keep it"));
  } else if (sequence->state != SequencePhase::kStopping) {
    Log(Level::kWarn, "sequence {} failed on worker '{}': {}", sequence->id.value, sequence->worker_id,
        e.status.ToString());
    if (sequence->client) FinishClient(*sequence, {*sequence->client, e.status, Outcome::kFailed});
    EndLease(*sequence, action::LeaseEnd::kLost, e.status);
  }
  Release(*sequence);
}

void CoordinatorCore::FinishTurn(SequenceEntry& sequence, RequestSummary summary) {
  summary.queue_s = SecondsFromNs(sequence.placed_ns - sequence.received_ns);
  if (sequence.first_token_ns != 0) {
    summary.ttft_s = SecondsFromNs(sequence.first_token_ns - sequence.received_ns);
  }
  if (summary.policy.empty()) summary.policy = sequence.spec.resolved_policy.name();
  action::Finish finish{*sequence.client, absl::OkStatus(), Outcome::kOk};
  finish.summary = std::move(summary);
  FinishClient(sequence, std::move(finish));
}

void CoordinatorCore::On(event::ClientGone& e) {
  SequenceEntry* sequence = sequences_.FindByClient(e.call);
  if (sequence == nullptr) return;
  Log(Level::kInfo, "client of request '{}' is gone", sequence->request_id);
  Fail(*sequence, absl::CancelledError("the client is gone"), Outcome::kCancelled);
}

void CoordinatorCore::On(event::Cancel& e) {
  SequenceEntry* sequence = sequences_.FindByRequest(e.request_id);
  if (sequence == nullptr) {
    actions_.push_back(action::ReplyCancel{
        e.call, absl::NotFoundError(fmt::format("no running request or kept sequence is named '{}'", e.request_id))});
    return;
  }
  Fail(*sequence, absl::CancelledError("cancelled by a Cancel call"), Outcome::kCancelled);
  actions_.push_back(action::ReplyCancel{e.call, absl::OkStatus()});
}

void CoordinatorCore::On(event::Drain& e) {
  draining_ = true;
  const std::deque<SequenceId> waiting = queue_;
  for (const SequenceId id : waiting) {
    Fail(*sequences_.Find(id), absl::UnavailableError("this coordinator is shutting down; send the request elsewhere"),
         Outcome::kFailed);
  }
  for (const SequenceId id : sequences_.Ids()) {
    SequenceEntry& sequence = *sequences_.Find(id);
    if (sequence.state != SequencePhase::kKept) continue;
    EndKept(sequence, action::LeaseEnd::kDrained, absl::UnavailableError("the coordinator is shutting down"));
  }
}

void CoordinatorCore::On(event::Abort& e) {
  draining_ = true;
  for (const SequenceId id : sequences_.Ids()) {
    Fail(*sequences_.Find(id), absl::UnavailableError("this coordinator was shut down"), Outcome::kFailed);
  }
}

void CoordinatorCore::FinishClient(SequenceEntry& sequence, action::Finish finish) {
  finish.duration_ns = now_ns_ - sequence.received_ns;
  finish.prompt_tokens = sequence.demand.prompt_tokens;
  if (absl::IsResourceExhausted(finish.status)) finish.retry_delay_ns = RetryDelay();
  if (finish.outcome == Outcome::kOk) {
    ++num_finished_;
    mean_duration_s_ = 0.8 * mean_duration_s_ + 0.2 * SecondsFromNs(finish.duration_ns);
  } else if (finish.outcome == Outcome::kFailed) {
    ++num_failed_;
  }
  actions_.push_back(std::move(finish));
  sequences_.DetachClient(sequence);
}

void CoordinatorCore::Fail(SequenceEntry& sequence, const absl::Status& status, Outcome outcome) {
  if (sequence.client) FinishClient(sequence, {*sequence.client, status, outcome});
  EndLease(sequence, outcome == Outcome::kCancelled ? action::LeaseEnd::kCancelled : action::LeaseEnd::kLost, status);
  switch (sequence.state) {
    case SequencePhase::kQueued:
      std::erase(queue_, sequence.id);
      Release(sequence);
      return;
    case SequencePhase::kOpening:
      Release(sequence);
      return;
    case SequencePhase::kPrefilling:
    case SequencePhase::kDecoding:
    case SequencePhase::kKept:
      if (!sequence.worker) break;
      actions_.push_back(action::StopSequence{*sequence.worker, sequence.id, sequence.epoch});
      workers_.at(*sequence.worker).scheduler.Leave(sequence.id);
      sequence.state = SequencePhase::kStopping;
      sequence.stopping_since_ns = now_ns_;
      return;
    case SequencePhase::kStopping:
      if (sequence.worker) return;  // its word is still awaited
      break;
  }
  Release(sequence);  // its worker is gone
}

void CoordinatorCore::Release(SequenceEntry& sequence) {
  for (const ShardPlacement& shard : sequence.shards) {
    for (const NodeEndpoint& holder : shard.holders) {
      if (ledger_.Close(shard.spec.shard_id, holder.node_id) != ShardLedger::Next::kSendClose) continue;
      SendClose(*ledger_.Find(shard.spec.shard_id, holder.node_id));
    }
  }
  if (sequence.worker) {
    Worker& worker = workers_.at(*sequence.worker);
    worker.scheduler.Leave(sequence.id);
    worker.sequences.erase(sequence.id);
    worker.resident_bytes -= sequence.resident_bytes;
  }
  sequences_.Erase(sequence.id);
}

void CoordinatorCore::SendClose(const Holding& holding) {
  actions_.push_back(action::CloseShard{holding.shard_id, holding.epoch, holding.holder});
}

void CoordinatorCore::SendSteps() {
  for (auto& [stream, worker] : workers_) {
    while (std::optional<StepScheduler::Step> step = worker.scheduler.Next(now_ns_)) {
      actions_.push_back(
          action::StepCommand{stream, step->step_id, config_.step_timeout_ns, std::move(step->sequences)});
    }
  }
}

SequenceEntry* CoordinatorCore::FindOf(StreamId stream, SequenceId id) {
  SequenceEntry* sequence = sequences_.Find(id);
  return sequence != nullptr && sequence->worker == stream ? sequence : nullptr;
}

uint32_t CoordinatorCore::NumPlaced() const { return static_cast<uint32_t>(sequences_.size() - queue_.size()); }

int64_t CoordinatorCore::RetryDelay() const { return RetryDelayNs(mean_duration_s_, queue_.size(), NumPlaced()); }

}  // namespace tributary
