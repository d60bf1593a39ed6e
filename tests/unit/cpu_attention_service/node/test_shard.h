// A shard with random KV in it, and the f64 truth about attention over it.
#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "attention/reference.h"
#include "base/aligned_buffer.h"
#include "kv_store/block_pool.h"
#include "kv_store/kv_shard.h"
#include "tests/unit/cpu_attention_service/node/random_inputs.h"

namespace tributary::testing {

// A pool with memory of its own.
class TestPool {
 public:
  explicit TestPool(size_t bytes, size_t extent_bytes = 64 << 10)
      : memory_(bytes), pool_(memory_.span(), extent_bytes) {}
  BlockPool* get() { return &pool_; }

 private:
  AlignedBuffer<std::byte> memory_;
  BlockPool pool_;
};

inline ShardSpec MakeSpec(uint64_t shard_id, AttentionShape model, uint64_t capacity_tokens,
                          DType dtype = DType::kBf16) {
  ShardSpec spec;
  spec.shard_id = ShardId(shard_id);
  spec.sequence_id = SequenceId(shard_id + 1000);
  spec.epoch = Epoch(1);
  spec.model = model;
  spec.num_layers = 2;
  spec.layer_end = 2;
  spec.kv_head_end = model.num_kv_heads;
  spec.capacity_tokens = capacity_tokens;
  spec.k_dtype = dtype;
  spec.v_dtype = dtype;
  return spec;
}

inline std::vector<std::byte> ToStorage(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> stored(values.size() * DTypeBytes(dtype));
  ConvertFromF32(dtype, values.data(), values.size(), stored.data());
  return stored;
}

// KV of one layer, canonical layout [token][kv_head held][head_dim].
struct LayerKv {
  std::vector<std::byte> k;
  std::vector<std::byte> v;
};

inline LayerKv RandomLayerKv(const ShardSpec& spec, uint32_t num_tokens, std::mt19937_64& random) {
  const size_t count = size_t{num_tokens} * spec.num_kv_heads_held() * spec.model.head_dim;
  return {ToStorage(spec.k_dtype, RandomFloats(count, random)), ToStorage(spec.v_dtype, RandomFloats(count, random))};
}

inline KvExchangeRows RowsOf(const ShardSpec& spec, const LayerKv& kv) {
  return {kv.k, kv.v, spec.k_dtype, spec.v_dtype};
}

// Of inputs like RandomFloats: kernels may round probabilities to bf16 where V is.
inline double OutTolerance(const ShardSpec& spec) { return spec.v_dtype == DType::kBf16 ? 4e-3 : 1e-5; }

// One query token over rows [begin, end) of `kv`.
inline ReferencePartial Reference(const ShardSpec& spec, const LayerKv& kv, std::span<const float> q, TokenRange rows,
                                  float softmax_scale, float soft_cap = 0) {
  ReferenceInput input;
  input.shape = {spec.num_q_heads_held(), spec.num_kv_heads_held(), spec.model.head_dim};
  input.softmax_scale = softmax_scale;
  input.soft_cap = soft_cap;
  input.q = q;
  input.k = kv.k;
  input.v = kv.v;
  input.k_dtype = spec.k_dtype;
  input.v_dtype = spec.v_dtype;
  input.visible = rows;
  return ReferenceAttention(input);
}

}  // namespace tributary::testing
