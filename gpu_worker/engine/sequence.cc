#include "gpu_worker/engine/sequence.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "fmt/format.h"
#include "wire/frame.h"

namespace tributary {

void Sequence::Apply(SequenceEvent event) {
  const std::optional<SequenceState> next = NextState(state_, event);
  const auto refusal = [&] {
    return fmt::format("a sequence that is {} takes no '{}'", SequenceStateName(state_), SequenceEventName(event));
  };
  TRIBUTARY_CHECK_EQ(next.has_value() ? "" : refusal(), "");
  state_ = *next;
}

void Sequence::BeginAnswer(SequenceEvent event, int64_t now_ns) {
  Apply(event);
  first_token_ns = last_token_ns = now_ns;
  ApplyIfAnswered();
}

void Sequence::ApplyIfAnswered() {
  if (FinishReason()[0] != '\0') Apply(SequenceEvent::kAnswered);
}

void Sequence::Park(uint32_t num_tokens, NodeIdx node, int64_t patient_now_ns) {
  cache.TakeBack(num_tokens);
  stall.parked = true;
  stall.parked_on = node;
  if (stall.since_ns == SequenceStall::kNotStalled) stall.since_ns = patient_now_ns;
}

void Sequence::Unpark() {
  stall.parked = false;
  if (stall.on == kNoNode) stall.since_ns = SequenceStall::kNotStalled;
}

void Sequence::BeginTurn(TurnPlan turn, int64_t now_ns) {
  history_tokens = context_tokens();
  if (history) history->BeginTurn(turn.prompt_tokens, turn.sampling, turn.max_tokens);
  append = {sampled.token};
  append.insert(append.end(), turn.prompt_tokens.begin(), turn.prompt_tokens.end());
  append_segments = {{.end = append.size()}};
  num_appended = 0;
  // Memory was reserved for the sequence as it was planned, whatever this turn asks for.
  plan.reserved_context_tokens = plan.max_context_tokens() + 1;
  static_cast<TurnPlan&>(plan) = std::move(turn);
  plan.answer_tokens.clear();
  generated_tokens = 0;
  Apply(SequenceEvent::kContinue);
  started_ns = progress_ns = now_ns;
  first_token_ns = last_token_ns = 0;
  BeginTurnCounts();
  bytes_sent = bytes_received = 0;
}

void Sequence::BeginTurnCounts() {
  num_steps = 0;
  attended_tokens_sum = 0;
  if (quality != nullptr) quality->BeginTurn();
  stage_sums_ns = {};
}

void Sequence::BeginReplay() {
  const auto add = [this](std::span<const uint32_t> tokens) {
    append.insert(append.end(), tokens.begin(), tokens.end());
  };
  // A turn's prompt was appended together with the last token of the answer before it.
  const auto end_segment = [this](bool is_answer, bool begins_turn) {
    const size_t begin = append_segments.empty() ? 0 : append_segments.back().end;
    if (append.size() > begin) append_segments.push_back({append.size(), is_answer, begins_turn});
  };
  history_tokens = 0;
  for (size_t i = 0; i < plan.past_turns.size(); ++i) {
    const std::span<const uint32_t> answer = plan.past_turns[i].answer_tokens;
    history_tokens += plan.past_turns[i].prompt_tokens.size() + answer.size();
    add(answer.first(answer.size() - 1));
    end_segment(true, false);
    add(answer.last(1));
    add(i + 1 == plan.past_turns.size() ? plan.prompt_tokens : plan.past_turns[i + 1].prompt_tokens);
    end_segment(false, true);
  }
  generated_tokens = static_cast<uint32_t>(plan.answer_tokens.size());
  if (plan.answer_tokens.empty()) return;
  sampled.token = plan.answer_tokens.back();
  add(std::span(plan.answer_tokens).first(plan.answer_tokens.size() - (is_answered_before() ? 1 : 0)));
  end_segment(true, false);
}

void Sequence::Appended(size_t num_tokens) {
  num_appended += num_tokens;
  if (num_appended < append_segments.front().end) return;
  append_segments.erase(append_segments.begin());
  if (!append_segments.empty() && append_segments.front().begins_turn) BeginTurnCounts();
}

uint32_t Sequence::AppendFlags(size_t num_tokens) const {
  if (!plan.policy.is_sparse()) return 0;
  if (append_segments.front().is_answer) return 0;
  const bool is_last = num_appended + num_tokens == append_segments.front().end;
  return is_last ? kQueryAppend | kQueryAppendEnd : kQueryAppend;
}

SampledToken Sequence::Choose(std::span<const float> logits) const {
  if (next_is_forced()) {
    const uint32_t token = plan.forced_tokens[generated_tokens];
    return {token, LogProb(logits, token)};
  }
  if (!history) return Sample(logits, plan.sampling, context_tokens());
  return Sample(logits, plan.sampling, context_tokens(), *history);
}

void Sequence::TakeToken(const SampledToken& token) {
  sampled = token;
  ++generated_tokens;
  if (history) history->AddAnswer(token.token);
}

DeviceSampling Sequence::device_sampling() const {
  return {.temperature = plan.sampling.temperature,
          .top_p = plan.sampling.top_p,
          .top_k = plan.sampling.top_k,
          .seed = plan.sampling.seed,
          .position = context_tokens()};
}

const char* Sequence::FinishReason() const {
  const bool forced = generated_tokens <= plan.forced_tokens.size();
  const auto& stops = plan.stop_tokens;
  if (!forced && std::find(stops.begin(), stops.end(), sampled.token) != stops.end()) return "stop";
  return generated_tokens >= plan.max_tokens ? "length" : "";
}

bool Sequence::UsesNode(NodeIdx node) const {
  return std::any_of(shards.begin(), shards.end(), [&](const BoundShard& shard) { return shard.IsHeldBy(node); });
}

bool Sequence::HasOtherHolders(NodeIdx node) const {
  return std::all_of(shards.begin(), shards.end(), [&](const BoundShard& shard) {
    const auto others = [&](const ShardHolder& holder) { return !holder.lost && holder.node != node; };
    return !shard.IsHeldBy(node) || std::any_of(shard.holders.begin(), shard.holders.end(), others);
  });
}

bool Sequence::LoseHolder(NodeIdx node) {
  bool all_held = true;
  for (BoundShard& shard : shards) all_held &= shard.Lose(node);
  return all_held;
}

}  // namespace tributary
