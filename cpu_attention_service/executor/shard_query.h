// One query of the executor's batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "attention/partial.h"
#include "attention/token_range.h"
#include "cpu_attention_service/executor/head_read.h"
#include "kv_store/kv_shard.h"
#include "kv_store/row_cache.h"

namespace tributary {

// One sequence's query against one layer of one shard. Borrowed memory, until Execute() returns.
struct ShardQuery {
  const KvShard* shard = nullptr;
  uint32_t layer = 0;
  TokenRange local;              // stripe-local; end <= shard->stored_tokens(layer). May be empty.
  uint32_t n_q = 1;              // query tokens
  std::span<const std::byte> q;  // f32 [n_q][num_q_heads held][head_dim], unaligned
  AttentionPartialView partial;  // out [n_q][num_q_heads held][head_dim], lse_ln [n_q][num_q_heads held]
  // Query token i attends to local tokens [local.begin, visible_end[i]), cut at local.end; empty: each to all of
  // `local`. Empty where rows or weighted tokens are read.
  std::span<const uint64_t> visible_end;
  std::span<const HeadRead> heads;  // [KV head held]; empty: each reads all of `local`
  const RowCache* cache = nullptr;  // of the heads' rows; the same geometry as the shard
  bool max_over_group = false;      // of the weights: the maximum over the group's heads, else the mean
};

}  // namespace tributary
