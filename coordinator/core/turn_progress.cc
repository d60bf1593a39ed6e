#include "coordinator/core/turn_progress.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/check.h"
#include "fmt/format.h"

namespace tributary {

void TurnProgress::Place(SequenceEntry& sequence, PlacementPlan plan) {
  const std::optional<StreamId> stream = parts_.workers.StreamOf(plan.worker_id);
  TRIBUTARY_CHECK(stream.has_value());
  parts_.queue.Remove(sequence.id);
  sequence.life.Advance(SequenceEvent::kPlaced);
  sequence.epoch = Epoch(parts_.next_epoch++);
  const bool is_first = !sequence.placed_anew && sequence.rebuild.count == 0;
  if (is_first) sequence.placed_ns = parts_.now_ns;
  sequence.worker = stream;
  sequence.worker_id = plan.worker_id;
  sequence.resident_bytes = plan.resident_bytes;
  parts_.workers.Assign(*stream, plan.resident_bytes);
  if (is_first) {
    parts_.out.Push(
        action::Accepted{*sequence.client, {sequence.request_id, sequence.id, sequence.epoch, sequence.worker_id}});
  }
  sequence.shards = std::move(plan.shards);
  const WorkerIdentity worker = parts_.workers.Find(*stream)->identity();
  const bool all_open =
      parts_.shards.Open(sequence.id, sequence.epoch, worker, parts_.membership, sequence.shards, parts_.out);
  if (all_open) StartOnWorker(sequence);
}

void TurnProgress::StartOnWorker(SequenceEntry& sequence) {
  sequence.life.Advance(SequenceEvent::kOpened);
  sequence.started_ns = parts_.now_ns;
  rebuilds_.HasPlace(sequence);
  GenerateSpec spec = sequence.spec;
  SequencePlan plan;
  static_cast<TurnPlan&>(plan) = std::move(static_cast<TurnPlan&>(spec));
  plan.keep = spec.lease.asked();
  plan.sequence_id = sequence.id;
  plan.epoch = sequence.epoch;
  plan.layout = spec.placement.layout();
  plan.kv_dtype = spec.placement.kv_dtype;
  plan.policy = std::move(spec.resolved_policy);
  plan.report_attention_heads = spec.report_attention_heads;
  plan.shards = sequence.shards;
  plan.reserved_context_tokens = sequence.reserved_context_tokens;
  plan.past_turns = sequence.past_turns;
  plan.answer_tokens = sequence.answer_tokens;
  parts_.out.Push(action::StartSequence{*sequence.worker, std::move(plan)});
}

void TurnProgress::Continue(SequenceEntry& sequence, CallId call, GenerateSpec spec) {
  parts_.out.Push(action::EndLease{sequence.request_id, sequence.id, action::LeaseEnd::kContinued});
  ++sequence.num_turns;
  sequence.is_between_turns = false;
  parts_.leases.BeginTurn(sequence.id, sequence.request_id, spec.lease);
  sequence.context_tokens += spec.prompt_tokens.size();
  sequence.demand.prompt_tokens = spec.prompt_tokens.size();
  if (sequence.has_token_ids) {
    sequence.past_turns.push_back(
        {std::exchange(sequence.spec.prompt_tokens, {}), std::exchange(sequence.answer_tokens, {})});
    static_cast<TurnPlan&>(sequence.spec) = spec;
  }
  sequence.spec.max_tokens = spec.max_tokens;
  sequence.spec.lease = spec.lease;
  sequence.max_stall_ns = spec.max_stall_ns;
  sequence.stall = {};
  sequence.generated_tokens = 0;
  sequence.received_ns = sequence.placed_ns = sequence.started_ns = parts_.now_ns;
  sequence.first_token_ns = sequence.last_token_ns = 0;
  parts_.sequences.AttachClient(sequence, call);
  parts_.out.Push(action::Accepted{call, {sequence.request_id, sequence.id, sequence.epoch, sequence.worker_id}});
  if (sequence.phase() != SequencePhase::kKept) return rebuilds_.OnContinued(sequence);
  sequence.life.Advance(SequenceEvent::kContinued);
  ContinuePlan plan{sequence.id, sequence.epoch, std::move(static_cast<TurnPlan&>(spec))};
  plan.turn.keep = spec.lease.asked();
  parts_.out.Push(action::ContinueSequence{*sequence.worker, std::move(plan)});
}

void TurnProgress::SendSteps() {
  for (WorkerPool::DueStep& due : parts_.workers.TakeSteps(parts_.now_ns)) {
    parts_.out.Push(
        action::TakeStep{due.stream, {due.step.step_id, parts_.config.step_timeout_ns, std::move(due.step.sequences)}});
  }
}

void TurnProgress::On(event::ShardOpened& e) {
  using Kind = ShardKeeper::OpenAnswer::Kind;
  const ShardKeeper::OpenAnswer answer = parts_.shards.OnOpened(e, parts_.out);
  if (answer.kind == Kind::kNothing) return;
  SequenceEntry* sequence = parts_.sequences.Find(answer.sequence_id);
  TRIBUTARY_CHECK(sequence != nullptr && sequence->phase() == SequencePhase::kOpening);
  if (answer.kind == Kind::kAllOpen) return StartOnWorker(*sequence);
  if (!absl::IsResourceExhausted(e.status) && !absl::IsInvalidArgument(e.status)) watch_.Suspect(e.node_id);
  if (TryElsewhere(*sequence, e.node_id, e.status)) return;
  absl::Status why(e.status.code(), fmt::format("CPU attention node '{}' did not open a shard: {}", e.node_id,
                                                std::string(e.status.message())));
  if (sequence->rebuild.cause && rebuilds_.OnPlaceFailed(*sequence, e.node_id, why)) return;
  ends_.Fail(*sequence, why, action::Outcome::kFailed);
}

bool TurnProgress::TryElsewhere(SequenceEntry& sequence, const std::string& node_id, const absl::Status& why) {
  const bool may_work_elsewhere = absl::IsUnavailable(why) || absl::IsDeadlineExceeded(why);
  if (!may_work_elsewhere || sequence.placed_anew || !sequence.life.Allows(SequenceEvent::kPlaceLost)) return false;
  if (sequence.rebuild.count > 0 || !sequence.client || !sequence.worker || parts_.draining) return false;
  if (!tributary::Place(parts_.Room(), sequence.demand).status.ok()) return false;
  parts_.out.Info("request '{}' starts at another place, because of '{}': {}", sequence.request_id, node_id,
                  std::string(why.message()));
  sequence.placed_anew = true;
  rebuilds_.Requeue(sequence);
  return true;
}

void TurnProgress::On(event::ShardClosed& e) { parts_.shards.OnClosed(e, parts_.now_ns); }

void TurnProgress::On(event::WorkerPrefill& e) {
  parts_.workers.Heard(e.stream, parts_.now_ns);
  SequenceEntry* sequence = parts_.sequences.FindOn(e.stream, e.progress.sequence_id);
  if (sequence == nullptr || !sequence->client || sequence->generated_tokens > 0) return;
  parts_.out.Push(action::Prefill{*sequence->client, e.progress});
}

void TurnProgress::On(event::WorkerTokens& e) {
  parts_.workers.Heard(e.stream, parts_.now_ns);
  Deliver(e.stream, std::move(e.tokens));
}

void TurnProgress::On(event::WorkerStepDone& e) {
  parts_.workers.Heard(e.stream, parts_.now_ns);
  WorkerPool::Worker* worker = parts_.workers.Find(e.stream);
  if (worker == nullptr) return;
  absl::flat_hash_set<SequenceId> answered;
  for (const SequenceTokens& tokens : e.done.tokens) answered.insert(tokens.sequence_id);
  if (!worker->scheduler.OnDone(e.done.step_id, answered)) {
    parts_.out.Warn("worker '{}' answered step {}, which was not in flight", worker->node_id, e.done.step_id.value);
    return;
  }
  for (SequenceTokens& tokens : e.done.tokens) Deliver(e.stream, std::move(tokens));
}

void TurnProgress::Deliver(StreamId stream, SequenceTokens tokens) {
  SequenceEntry* sequence = parts_.sequences.FindOn(stream, tokens.sequence_id);
  if (sequence == nullptr || tokens.tokens.empty()) return;
  const SequencePhase phase = sequence->phase();
  // A recalled one's are right as well: they came before its worker has let go.
  const bool is_awaited =
      phase == SequencePhase::kPrefilling || phase == SequencePhase::kDecoding || phase == SequencePhase::kRecalled;
  if (!is_awaited) return;
  const uint64_t num_tokens = tokens.tokens.size();
  const bool first = sequence->first_token_ns == 0;
  if (first) {
    sequence->first_token_ns = parts_.now_ns;
    sequence->last_token_ns = sequence->received_ns;
  }
  if (phase == SequencePhase::kPrefilling) BeginDecoding(stream, *sequence, num_tokens);
  rebuilds_.OnTokens(*sequence);
  sequence->generated_tokens += num_tokens;
  if (sequence->has_token_ids) {
    sequence->answer_tokens.insert(sequence->answer_tokens.end(), tokens.tokens.begin(), tokens.tokens.end());
  }
  const int64_t since_last_ns = parts_.now_ns - sequence->last_token_ns;
  sequence->last_token_ns = parts_.now_ns;
  if (sequence->client) {
    parts_.out.Push(action::Tokens{*sequence->client, std::move(tokens), first, since_last_ns});
  }
}

void TurnProgress::BeginDecoding(StreamId stream, SequenceEntry& sequence, uint64_t num_tokens) {
  sequence.life.Advance(SequenceEvent::kFirstToken);
  if (!sequence.has_token_ids) {
    // What starts it is of no use any more: only what is counted and reported is kept.
    GenerateSpec spec = std::exchange(sequence.spec, {});
    sequence.spec.max_tokens = spec.max_tokens;
    sequence.spec.resolved_policy = std::move(spec.resolved_policy);
  }
  WorkerPool::Worker& worker = *parts_.workers.Find(stream);
  for (const ShardPlacement& shard : sequence.shards) {
    for (const NodeEndpoint& holder : shard.holders) worker.suspects.OnSuccess(holder.node_id);
  }
  const uint64_t max_tokens = sequence.spec.max_tokens;
  const uint64_t there = sequence.generated_tokens + num_tokens;
  worker.scheduler.Join(sequence.id, max_tokens - std::min(max_tokens, there));
  if (!sequence.stall.node_id.empty()) worker.scheduler.Suspend(sequence.id);
}

void TurnProgress::On(event::WorkerEnded& e) {
  parts_.workers.Heard(e.stream, parts_.now_ns);
  const SequenceId id = e.ended.sequence_id;
  SequenceEntry* sequence = parts_.sequences.FindOn(e.stream, id);
  if (sequence == nullptr || !sequence->life.Allows(SequenceEvent::kEnded)) return;
  // Nothing new goes to a node that a worker cannot reach, until the node itself is heard again; from this worker, for
  // longer.
  if (const std::string& node_id = e.ended.failed_node_id; !node_id.empty()) {
    watch_.Suspect(node_id);
    parts_.workers.Find(e.stream)->suspects.OnFailure(node_id, parts_.patient_now_ns);
  }
  if (sequence->phase() == SequencePhase::kRecalled && !e.ended.status.ok()) return rebuilds_.OnLetGo(*sequence);
  if (!e.ended.failed_node_id.empty() && rebuilds_.OnPlaceFailed(*sequence, e.ended.failed_node_id, e.ended.status)) {
    return;
  }
  ends_.OnWorkerEnded(*sequence, std::move(e.ended));
}

void TurnProgress::On(event::WorkerKept& e) {
  parts_.workers.Heard(e.stream, parts_.now_ns);
  SequenceEntry* sequence = parts_.sequences.FindOn(e.stream, e.kept.sequence_id);
  // One that is stopping ends by the worker's word.
  if (sequence == nullptr || !sequence->life.Allows(SequenceEvent::kKept)) return;
  parts_.workers.Find(e.stream)->scheduler.Leave(sequence->id);
  sequence->context_tokens += sequence->generated_tokens;
  const absl::Status drains = ends_.Drains(*sequence);
  std::optional<KeptLease> kept;
  if (parts_.leases.asked(sequence->id) && drains.ok()) {
    sequence->life.Advance(SequenceEvent::kKept);
    sequence->is_between_turns = true;
    const int64_t lease_ns = parts_.leases.Hold(sequence->id, parts_.now_ns);
    kept = {sequence->request_id, lease_ns, sequence->context_tokens, sequence->reserved_context_tokens};
  }
  const bool stays = kept.has_value();
  ends_.FinishTurn(*sequence, std::move(e.kept.summary), std::move(kept));
  if (!stays) ends_.EndKept(*sequence, action::LeaseEnd::kDrained, drains);
}

}  // namespace tributary
