// Small shards and rows of known content for the tests of the store.
#pragma once

#include <random>
#include <span>
#include <vector>

#include "attention/token_range.h"
#include "base/dtype.h"
#include "cluster/shard_spec.h"
#include "kv_store/kv_shard.h"

namespace tributary::testing {

inline ShardSpec SmallSpec(uint64_t shard_id = 5) {
  ShardSpec spec;
  spec.shard_id = ShardId(shard_id);
  spec.sequence_id = SequenceId(6);
  spec.epoch = Epoch(3);
  spec.model = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};
  spec.num_layers = spec.layer_end = 2;
  spec.kv_head_end = 2;
  spec.capacity_tokens = 1000;
  spec.k_dtype = spec.v_dtype = DType::kF32;
  return spec;
}

// f32 rows of tokens of one layer. A row is decided by its layer, token, head and the content's number.
class Rows {
 public:
  Rows(const ShardSpec& spec, uint32_t layer, TokenRange tokens, uint64_t content = 0) : tokens_(tokens) {
    row_floats_ = spec.num_kv_heads_held() * spec.model.head_dim;
    for (std::vector<float>* values : {&k_, &v_}) {
      for (uint64_t pos = tokens.begin; pos < tokens.end; ++pos) {
        std::minstd_rand random(
            static_cast<uint32_t>(1 + pos * 64 + layer * 4 + (values == &v_ ? 2 : 0) + content * 7919));
        for (uint32_t i = 0; i < row_floats_; ++i) values->push_back(static_cast<float>(random() % 4096) / 512.0f - 4);
      }
    }
  }

  TokenRange tokens() const { return tokens_; }
  KvExchangeRows view() const {
    return {std::as_bytes(std::span(k_)), std::as_bytes(std::span(v_)), DType::kF32, DType::kF32};
  }
  // One element of a token's row over all heads, of K or V.
  float& At(uint64_t pos, uint32_t element, bool is_k) {
    return (is_k ? k_ : v_)[(pos - tokens_.begin) * row_floats_ + element];
  }

 private:
  TokenRange tokens_;
  uint32_t row_floats_ = 0;
  std::vector<float> k_;
  std::vector<float> v_;
};

inline StoreResult Store(KvShard& shard, uint32_t layer, const Rows& rows, Storer storer = Storer::kOwner) {
  const TokenRange tokens = rows.tokens();
  return shard.Store(layer, tokens.begin, static_cast<uint32_t>(tokens.size()), rows.view(), storer);
}
inline StoreResult Store(KvShard& shard, uint32_t layer, TokenRange tokens, uint64_t content = 0) {
  return Store(shard, layer, Rows(shard.spec(), layer, tokens, content));
}

// The bytes of a visible tile.
inline std::vector<std::byte> TileBytes(const KvShard& shard, uint32_t layer, uint32_t head, uint64_t tile) {
  const std::byte* record = shard.TileAt(layer, head, tile);
  return {record, record + shard.tile_layout().record_bytes};
}

// What memory that goes bad does.
inline void FlipBit(const KvShard& shard, uint32_t layer, uint32_t head, uint64_t tile, size_t bit) {
  auto* record = const_cast<std::byte*>(shard.TileAt(layer, head, tile));
  record[bit / 8] ^= std::byte{1} << (bit % 8);
}

}  // namespace tributary::testing
