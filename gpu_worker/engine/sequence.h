// One sequence on the GPU worker: its plan, where it stands, which block is leaving its window, and what is added up
// for the summary of its turn.
//
// Owns nothing outside itself: `resident` is the device's and its nodes are RemoteNodes', and whoever removes the
// sequence from the engine gives them back (TurnCloser). Thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/device/facet.h"
#include "gpu_worker/engine/block_spill.h"
#include "gpu_worker/engine/sequence_state.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "gpu_worker/sequence/sampler.h"
#include "gpu_worker/sequence/sequence_plan.h"
#include "gpu_worker/sequence/window_cache.h"
#include "gpu_worker/spill/spill.h"
#include "gpu_worker/step/attention_quality.h"

namespace tributary {

// What keeps a sequence from its next step, if anything does (StallWatch).
struct SequenceStall {
  static constexpr int64_t kNotStalled = -1;

  NodeIdx on = kNoNode;            // reported: the silent node that it waits for
  bool parked = false;             // its last step came to nothing, and is to be run again
  NodeIdx parked_on = kNoNode;     // the node that did not answer then
  int64_t since_ns = kNotStalled;  // of either, patient time
};

// Some of the tokens that are appended, up to number `end` of all.
struct AppendSegment {
  size_t end = 0;
  // An answer that is replayed: each token takes a step as when it was new, so that it has the same bits, and a policy
  // sees the same queries.
  bool is_answer = false;
  bool begins_turn = false;
};

struct Sequence {
  SequencePlan plan;
  WindowCache cache;
  ResidentId resident;
  std::vector<BoundShard> shards;

  SampledToken sampled;                 // the latest token; fed by the next step
  TopTokens top;                        // of the latest token, if the plan asks for them
  std::optional<TokenHistory> history;  // of a sequence whose turns' sampling may ask for it
  uint32_t generated_tokens = 0;        // in this turn
  std::optional<BlockSpill> spill;
  SequenceStall stall;
  std::unique_ptr<AttentionQuality> quality;  // null: dense, or nothing can become remote
  PolicyFacet* facet = nullptr;               // of `resident`; null: the policy keeps nothing on the device
  uint64_t softmax_tokens = 0;                // resident tokens of the last step

  uint64_t history_tokens = 0;  // prompts and answers of earlier turns
  // Tokens of this turn whose KV is not there yet; of a sequence that is rebuilt, all after its first prompt.
  std::vector<uint32_t> append;
  std::vector<AppendSegment> append_segments;  // the first one is being appended
  size_t num_appended = 0;                     // of append

  // Once not OK, the sequence ends as soon as nobody is looking at it.
  absl::Status failure;
  NodeIdx failed_node = kNoNode;

  // The summary is made of these.
  int64_t started_ns = 0;  // this and all below: of this turn
  int64_t progress_ns = 0;
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
  uint64_t num_steps = 0;
  double attended_tokens_sum = 0;
  std::array<int64_t, kNumStages> stage_sums_ns{};
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;

  SequenceId id() const { return plan.sequence_id; }
  SequenceState state() const { return state_; }
  bool is(SequenceState state) const { return state_ == state; }
  // Moves on. REQUIRES (checked): the event is legal in this state (sequence_state.h).
  void Apply(SequenceEvent event);
  // Its turn's first token is there, by whichever event; it decodes now, or has its answer already.
  void BeginAnswer(SequenceEvent event, int64_t now_ns);
  // Is called after each token of the answer, and applies Answered if it was the last one.
  void ApplyIfAnswered();
  // Prompts and answers, the latest token included.
  uint64_t context_tokens() const { return history_tokens + plan.prompt_tokens.size() + generated_tokens; }
  // The flags of the query that appends the next num_tokens: a sparse policy reads everything then, and selects anew
  // after the last one. Such a step is not measured.
  uint32_t AppendFlags(size_t num_tokens) const;
  // Of a sequence that is rebuilt, what follows its first prompt is to be appended. REQUIRES: `plan` is set.
  void BeginReplay();
  // Its first prompt is not all there was: it is rebuilt, or was.
  bool is_rebuilt() const { return !plan.past_turns.empty() || !plan.answer_tokens.empty(); }
  // Tokens of an answer are appended, one in each step.
  bool replays_answer() const {
    return is(SequenceState::kAppending) && !append_segments.empty() && append_segments.front().is_answer;
  }
  // So many more are appended.
  void Appended(size_t num_tokens);
  // All of its answer was there before it was rebuilt: no token comes of the last one's step.
  bool is_answered_before() const { return !plan.answer_tokens.empty() && FinishReason()[0] != '\0'; }
  // The next turn: the last token of the answer, which has no KV yet, is the first to append.
  void BeginTurn(TurnPlan turn, int64_t now_ns);
  void Fail(const absl::Status& status, NodeIdx node) {
    if (!failure.ok()) return;
    failure = status;
    failed_node = node;
  }
  // A step of it may be broken off and run again: no policy keeps count of its queries, here or on the nodes.
  bool may_repeat_steps() const { return facet == nullptr && quality == nullptr; }
  // A step came to nothing because this node did not answer: its tokens go in again.
  void Park(uint32_t num_tokens, NodeIdx node, int64_t patient_now_ns);
  // A step has succeeded.
  void Unpark();
  // It has the next token of its answer.
  void TakeToken(const SampledToken& token);
  // The token at answer index generated_tokens, forced or sampled from these logits.
  SampledToken Choose(std::span<const float> logits) const;
  // The next token is given by the plan; only its probability is asked for.
  bool next_is_forced() const { return generated_tokens < plan.forced_tokens.size(); }
  // Its choice, or what is reported with it, takes all logits: no device samples it.
  bool next_needs_logits() const {
    return next_is_forced() || plan.top_logprobs > 0 || plan.sampling.changes_logits() || plan.sampling.min_p > 0;
  }
  // What Choose() does with logits, for a device that does it itself.
  DeviceSampling device_sampling() const;
  // "stop" or "length" if the latest token was the last one, else "".
  const char* FinishReason() const;
  // Whether the node holds a shard of it, and is not lost.
  bool UsesNode(NodeIdx node) const;
  // Each shard that the node holds has another holder, too.
  bool HasOtherHolders(NodeIdx node) const;
  // The node no longer holds what it should. False if some shard has no holder left.
  bool LoseHolder(NodeIdx node);

 private:
  void BeginTurnCounts();

  SequenceState state_ = SequenceState::kQueued;
};

}  // namespace tributary
