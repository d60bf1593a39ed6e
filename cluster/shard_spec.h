// One shard: the part of a sequence's remote KV that one CPU node owns. A plan may cut a sequence
// by tokens (stripes), by KV heads, by layers, or by all of them; shards of one sequence never
// overlap.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "attention/kv/kv_tile_layout.h"
#include "attention/shape.h"
#include "attention/token_range.h"
#include "base/dtype.h"
#include "base/ids.h"
#include "policy/policy_params.h"

namespace tributary {

struct ShardSpec {
  ShardId shard_id;
  SequenceId sequence_id;
  Epoch epoch;              // of the sequence's placement
  AttentionShape model;     // the whole model's heads
  uint32_t num_layers = 0;  // the whole model's
  uint32_t layer_begin = 0;
  uint32_t layer_end = 0;
  uint32_t kv_head_begin = 0;
  uint32_t kv_head_end = 0;
  TokenStripe stripe;
  uint64_t capacity_tokens = 0;   // stripe-local
  DType k_dtype = DType::kUnset;  // as stored; on the way to the shard it may have another
  DType v_dtype = DType::kUnset;
  PolicyParams policy;  // the sequence's, the same in all its shards

  uint32_t num_layers_held() const { return layer_end - layer_begin; }
  uint32_t num_kv_heads_held() const { return kv_head_end - kv_head_begin; }
  uint32_t num_q_heads_held() const { return num_kv_heads_held() * model.group_size(); }
  friend bool operator==(const ShardSpec&, const ShardSpec&) = default;
};

// How the shard's streams lie in memory. REQUIRES, as below: KV dtypes, head_dim > 0.
KvTileLayout TileLayoutOf(const ShardSpec& spec);
// Bytes that `tokens` tokens of the shard, all its layers and heads, take in whole tiles.
uint64_t StoredBytes(const ShardSpec& spec, uint64_t tokens);

// INVALID_ARGUMENT with the offending values.
absl::Status Validate(const ShardSpec& spec);

}  // namespace tributary
