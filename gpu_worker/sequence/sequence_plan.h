// What a worker checks of the plans that the coordinator sends (cluster/sequence_plan.h), against its own model.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "attention/shape.h"
#include "cluster/sequence_plan.h"
#include "gpu_worker/device/layer_map.h"

namespace tributary {

// What of the model a plan is checked against.
struct ModelLimits {
  AttentionShape shape;
  uint32_t num_layers = 0;
  std::vector<uint32_t> windowed_layers = {};  // those whose attention sees sliding_window_tokens, ascending
  uint32_t sliding_window_tokens = 0;
  bool has_soft_cap = false;  // its attention's scores are capped
  uint32_t vocab_size = 0;
  uint64_t max_context_tokens = 0;  // max_position_embeddings; 0 = no limit
  uint32_t max_partial_slots = 0;   // token stripes that one row's merge reads

  // Shards hold the others.
  LayerMap layers() const { return {num_layers, windowed_layers}; }
  uint32_t num_shard_layers() const { return num_layers - static_cast<uint32_t>(windowed_layers.size()); }
};

// INVALID_ARGUMENT or UNIMPLEMENTED (several holders of a sparse policy's shard), with the offending values. When it is
// OK, every remote token of every layer and KV head has exactly one shard with room for it, and each shard a holder.
absl::Status Validate(const SequencePlan& plan, const ModelLimits& model);

// A turn that begins when `context_tokens` (prompts and answers) are there, in a sequence that was
// planned for `max_context_tokens` of KV. INVALID_ARGUMENT with the offending values.
absl::Status Validate(const ContinuePlan& plan, uint64_t context_tokens, uint64_t max_context_tokens,
                      const ModelLimits& model);

// What ends an answer of this model, unless the turn ignores it: added to its stop tokens.
void AddEndTokens(const std::vector<uint32_t>& eos_tokens, TurnPlan& turn);

}  // namespace tributary
