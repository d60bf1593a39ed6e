#include "gpu_worker/sequence/sequence_plan.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"
#include "policy/policy.h"

namespace tributary {
namespace {

absl::Status Invalid(SequenceId sequence, const std::string& what) {
  return absl::InvalidArgumentError(fmt::format("sequence {}: {}", sequence.value, what));
}

absl::Status Invalid(const SequencePlan& plan, const std::string& what) { return Invalid(plan.sequence_id, what); }

absl::Status CheckTokens(SequenceId sequence, const std::vector<uint32_t>& tokens, const char* what,
                         const ModelLimits& model) {
  const auto bad = std::find_if(tokens.begin(), tokens.end(), [&](uint32_t t) { return t >= model.vocab_size; });
  if (bad == tokens.end()) return absl::OkStatus();
  return Invalid(sequence, fmt::format("{} token {} is {}, the vocabulary has {}", what, bad - tokens.begin(), *bad,
                                       model.vocab_size));
}

absl::Status CheckTurn(SequenceId sequence, const TurnPlan& turn, const ModelLimits& model) {
  if (turn.max_tokens == 0) return Invalid(sequence, "max_tokens is 0, must be at least 1");
  TRIBUTARY_RETURN_IF_ERROR(CheckTokens(sequence, turn.prompt_tokens, "prompt", model));
  TRIBUTARY_RETURN_IF_ERROR(CheckTokens(sequence, turn.forced_tokens, "forced", model));
  const uint32_t most = std::min(model.vocab_size, limits::kMaxTopLogprobs);
  if (turn.top_logprobs > most) {
    return Invalid(sequence, fmt::format("top_logprobs is {}, must be at most {} (vocabulary of {})", turn.top_logprobs,
                                         most, model.vocab_size));
  }
  for (const LogitBias& bias : turn.sampling.logit_bias) {
    if (bias.token < model.vocab_size) continue;
    return Invalid(sequence,
                   fmt::format("logit_bias names token {}, the vocabulary has {}", bias.token, model.vocab_size));
  }
  const absl::Status sampling = Validate(turn.sampling);
  return sampling.ok() ? sampling : Invalid(sequence, std::string(sampling.message()));
}

absl::Status CheckContext(const SequencePlan& plan, const ModelLimits& model) {
  if (plan.first_prompt().empty()) return Invalid(plan, "the prompt is empty, it needs at least one token");
  uint64_t max_context = limits::kMaxContextTokens;
  if (model.max_context_tokens != 0) max_context = std::min(max_context, model.max_context_tokens);
  if (plan.max_context_tokens() > max_context) {
    return Invalid(plan,
                   fmt::format("prompt of {} tokens, max_tokens {} and {} tokens reserved for all turns "
                               "exceed the model's {} positions",
                               plan.prompt_tokens.size(), plan.max_tokens, plan.reserved_context_tokens, max_context));
  }
  return absl::OkStatus();
}

// What a sequence that is rebuilt has had.
absl::Status CheckPast(const SequencePlan& plan, const ModelLimits& model) {
  uint64_t past_tokens = 0;
  for (const PastTurn& turn : plan.past_turns) {
    TRIBUTARY_RETURN_IF_ERROR(CheckTokens(plan.sequence_id, turn.prompt_tokens, "past prompt", model));
    TRIBUTARY_RETURN_IF_ERROR(CheckTokens(plan.sequence_id, turn.answer_tokens, "past answer", model));
    if (turn.answer_tokens.empty()) return Invalid(plan, "a past turn has no answer, it needs at least one token");
    past_tokens += turn.prompt_tokens.size() + turn.answer_tokens.size();
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckTokens(plan.sequence_id, plan.answer_tokens, "answer", model));
  if (plan.answer_tokens.size() > plan.max_tokens) {
    return Invalid(plan, fmt::format("{} tokens of the answer are there, max_tokens is {}", plan.answer_tokens.size(),
                                     plan.max_tokens));
  }
  const uint64_t needed = past_tokens + plan.prompt_tokens.size() + plan.max_tokens - 1;
  if (needed <= plan.max_context_tokens()) return absl::OkStatus();
  return Invalid(
      plan, fmt::format("past turns of {} tokens, a prompt of {} and max_tokens {} need a context of {}; {} "
                        "are reserved",
                        past_tokens, plan.prompt_tokens.size(), plan.max_tokens, needed, plan.max_context_tokens()));
}

absl::Status CheckShard(const SequencePlan& plan, const ModelLimits& model, const ShardSpec& shard) {
  if (absl::Status status = Validate(shard); !status.ok()) return Invalid(plan, std::string(status.message()));
  const std::string name = fmt::format("shard {}", shard.shard_id.value);
  if (shard.sequence_id != plan.sequence_id || shard.epoch != plan.epoch) {
    return Invalid(plan, fmt::format("{} is of sequence {} at epoch {}, not of this one at epoch {}", name,
                                     shard.sequence_id.value, shard.epoch.value, plan.epoch.value));
  }
  if (shard.model != model.shape || shard.num_layers != model.num_shard_layers()) {
    return Invalid(plan, fmt::format("{} has {} layers of {}/{} heads of {}, the worker's model has {} of {}/{} of {}",
                                     name, shard.num_layers, shard.model.num_q_heads, shard.model.num_kv_heads,
                                     shard.model.head_dim, model.num_shard_layers(), model.shape.num_q_heads,
                                     model.shape.num_kv_heads, model.shape.head_dim));
  }
  if (shard.policy != plan.policy) {
    return Invalid(plan, fmt::format("{} has another policy ({}) than the sequence ({})", name,
                                     std::string(shard.policy.name()), std::string(plan.policy.name())));
  }
  const TokenStripe& stripe = shard.stripe;
  if (stripe.origin != plan.layout.sink_tokens || stripe.stripe_tokens % plan.layout.block_tokens != 0) {
    return Invalid(plan, fmt::format("{} has stripes of {} tokens from {} on, must be a multiple of block_tokens {} "
                                     "from sink_tokens {} on",
                                     name, stripe.stripe_tokens, stripe.origin, plan.layout.block_tokens,
                                     plan.layout.sink_tokens));
  }
  if (stripe.num_stripes > model.max_partial_slots) {
    return Invalid(plan, fmt::format("{} has {} stripes, the worker merges at most {}", name, stripe.num_stripes,
                                     model.max_partial_slots));
  }
  const uint64_t needed = stripe.LocalIndex(plan.layout.RemoteEnd(plan.max_context_tokens()));
  if (shard.capacity_tokens < needed) {
    return Invalid(plan, fmt::format("{} has room for {} tokens, needs {}", name, shard.capacity_tokens, needed));
  }
  return absl::OkStatus();
}

absl::Status CheckSoftCap(const SequencePlan& plan, const ModelLimits& model) {
  if (!model.has_soft_cap || MakePolicy(plan.policy)->serves_soft_cap()) return absl::OkStatus();
  return absl::UnimplementedError(
      fmt::format("sequence {}: policy '{}' with these parameters bounds softmax weights by q.k, which this model's "
                  "attention caps; use another policy or 'dense'",
                  plan.sequence_id.value, std::string(plan.policy.name())));
}

// A sparse policy's node chooses by what it was asked, too, and of several holders one is asked: they would differ.
absl::Status CheckHolders(const SequencePlan& plan, const ShardPlacement& placement) {
  if (absl::Status status = ValidateHolders(placement); !status.ok()) {
    return Invalid(plan, std::string(status.message()));
  }
  if (placement.holders.size() == 1 || !plan.policy.is_sparse()) return absl::OkStatus();
  return absl::UnimplementedError(
      fmt::format("sequence {}: shard {} has {} holders, which policy '{}' cannot have: they would choose differently; "
                  "place it on one node",
                  plan.sequence_id.value, placement.spec.shard_id.value, placement.holders.size(),
                  std::string(plan.policy.name())));
}

// Every (layer, KV head) must be held by exactly one shard of each stripe, and all of one number of
// stripes.
absl::Status CheckCover(const SequencePlan& plan, const ModelLimits& model) {
  const uint32_t num_stripes = plan.shards.front().spec.stripe.num_stripes;
  for (const ShardPlacement& placement : plan.shards) {
    const TokenStripe& stripe = placement.spec.stripe;
    if (stripe.num_stripes != num_stripes || stripe.stripe_tokens != plan.shards.front().spec.stripe.stripe_tokens) {
      return Invalid(plan, "its shards cut the tokens in different ways");
    }
  }
  const size_t heads = model.shape.num_kv_heads;
  std::vector<uint8_t> counts(model.num_shard_layers() * heads * num_stripes);
  for (const ShardPlacement& placement : plan.shards) {
    const ShardSpec& shard = placement.spec;
    for (size_t layer = shard.layer_begin; layer < shard.layer_end; ++layer) {
      for (size_t head = shard.kv_head_begin; head < shard.kv_head_end; ++head) {
        uint8_t& count = counts[(layer * heads + head) * num_stripes + shard.stripe.stripe_idx];
        count = static_cast<uint8_t>(std::min(count + 1, 2));
      }
    }
  }
  const auto bad = std::find_if(counts.begin(), counts.end(), [](uint8_t count) { return count != 1; });
  if (bad == counts.end()) return absl::OkStatus();
  const size_t i = bad - counts.begin();
  return Invalid(plan,
                 fmt::format("stripe {} of layer {} KV head {} has {} shards, must have exactly one", i % num_stripes,
                             i / num_stripes / heads, i / num_stripes % heads, *bad == 0 ? "no" : "several"));
}

}  // namespace

absl::Status Validate(const SequencePlan& plan, const ModelLimits& model) {
  TRIBUTARY_RETURN_IF_ERROR(CheckTurn(plan.sequence_id, plan, model));
  TRIBUTARY_RETURN_IF_ERROR(CheckContext(plan, model));
  TRIBUTARY_RETURN_IF_ERROR(CheckPast(plan, model));
  if (!IsValidDType(plan.kv_dtype)) {
    return Invalid(plan, fmt::format("kv_dtype {} is none of f32, bf16, f16", static_cast<int>(plan.kv_dtype)));
  }
  if (const absl::Status status = Validate(plan.layout); !status.ok()) {
    return Invalid(plan, std::string(status.message()));
  }
  if (!plan.layout.all_resident && plan.layout.window_tokens < model.sliding_window_tokens) {
    return Invalid(plan,
                   fmt::format("a window of {} tokens is smaller than the {} that the model's windowed layers see",
                               plan.layout.window_tokens, model.sliding_window_tokens));
  }
  if (plan.layout.all_resident || plan.shards.empty()) return absl::OkStatus();
  if (model.num_shard_layers() == 0) return Invalid(plan, "it has shards, but all layers of the model are windowed");
  if (plan.shards.size() > limits::kMaxShardsPerSequence) {
    return Invalid(plan, fmt::format("{} shards, at most {}", plan.shards.size(), limits::kMaxShardsPerSequence));
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckSoftCap(plan, model));
  absl::flat_hash_set<ShardId> shard_ids;
  for (const ShardPlacement& placement : plan.shards) {
    if (!shard_ids.insert(placement.spec.shard_id).second) {
      return Invalid(plan, fmt::format("shard id {} names two shards", placement.spec.shard_id.value));
    }
    TRIBUTARY_RETURN_IF_ERROR(CheckShard(plan, model, placement.spec));
    TRIBUTARY_RETURN_IF_ERROR(CheckHolders(plan, placement));
  }
  return CheckCover(plan, model);
}

absl::Status Validate(const ContinuePlan& plan, uint64_t context_tokens, uint64_t max_context_tokens,
                      const ModelLimits& model) {
  const TurnPlan& turn = plan.turn;
  TRIBUTARY_RETURN_IF_ERROR(CheckTurn(plan.sequence_id, turn, model));
  const uint64_t needed = context_tokens + turn.prompt_tokens.size() + turn.max_tokens - 1;
  if (needed <= max_context_tokens) return absl::OkStatus();
  return Invalid(plan.sequence_id,
                 fmt::format("{} tokens, {} more and max_tokens {} need a context of {}; {} are "
                             "reserved",
                             context_tokens, turn.prompt_tokens.size(), turn.max_tokens, needed, max_context_tokens));
}

void AddEndTokens(const std::vector<uint32_t>& eos_tokens, TurnPlan& turn) {
  if (turn.ignore_eos) return;
  turn.stop_tokens.insert(turn.stop_tokens.end(), eos_tokens.begin(), eos_tokens.end());
}

}  // namespace tributary
