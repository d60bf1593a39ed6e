// What a sequence is to a GPU worker: the prompt, how to sample, and where its KV lives. Made by
// the coordinator, carried by StartSequence, checked here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "attention/shape.h"
#include "base/dtype.h"
#include "base/ids.h"
#include "cluster/shard_placement.h"
#include "gpu_worker/sequence/sampler.h"
#include "gpu_worker/sequence/window_cache.h"
#include "policy/policy_params.h"

namespace tributary {

// One turn of a sequence: what is added to it, and what answer is asked for.
struct TurnPlan {
  std::vector<uint32_t> prompt_tokens;  // of a later turn: may be empty, the answer goes on
  uint32_t max_tokens = 0;
  SamplingParams sampling;
  std::vector<uint32_t> stop_tokens;
  // Token i of the answer is forced_tokens[i], whatever the model would pick; a forced token never
  // stops the sequence.
  std::vector<uint32_t> forced_tokens;
  uint32_t top_logprobs = 0;  // alternatives reported with each token
  bool keep = false;          // the sequence stays when the answer has ended, for a ContinuePlan or a Stop
};

// The first turn, and what holds for all of them.
struct SequencePlan : TurnPlan {
  SequenceId sequence_id;
  Epoch epoch;
  WindowLayout layout;
  DType kv_dtype = DType::kUnset;  // resident, and on the way to shards; those may store another
  PolicyParams policy;
  bool report_attention_heads = false;  // the summary says what each KV head read and kept
  std::vector<ShardPlacement> shards;   // empty: all resident

  // Prompts and answers of all turns together, for which memory is reserved; no more than this turn
  // needs: for this turn only.
  uint64_t reserved_context_tokens = 0;

  // Tokens that the KV may grow to: the last token of the last answer is never fed back.
  uint64_t max_context_tokens() const {
    return std::max<uint64_t>(reserved_context_tokens, prompt_tokens.size() + max_tokens) - 1;
  }
};

// A later turn of a sequence that was kept.
struct ContinuePlan {
  SequenceId sequence_id;
  Epoch epoch;
  TurnPlan turn;
};

// What of the model a plan is checked against.
struct ModelLimits {
  AttentionShape shape;
  uint32_t num_layers = 0;
  uint32_t vocab_size = 0;
  uint64_t max_context_tokens = 0;  // max_position_embeddings; 0 = no limit
  uint32_t max_partial_slots = 0;   // token stripes that one row's merge reads
};

// INVALID_ARGUMENT or UNIMPLEMENTED (several holders of a sparse policy's shard), with the offending values. When it is
// OK, every remote token of every layer and KV head has exactly one shard with room for it, and each shard a holder.
absl::Status Validate(const SequencePlan& plan, const ModelLimits& model);

// A turn that begins when `context_tokens` (prompts and answers) are there, in a sequence that was
// planned for `max_context_tokens` of KV. INVALID_ARGUMENT with the offending values.
absl::Status Validate(const ContinuePlan& plan, uint64_t context_tokens, uint64_t max_context_tokens,
                      const ModelLimits& model);

}  // namespace tributary
