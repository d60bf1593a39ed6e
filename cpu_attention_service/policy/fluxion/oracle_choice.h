// Mode `oracle`: how few of its best blocks, in the order of the runtime's own score, give a query head an output whose
// error is small enough. It attends to everything first, block by block and plainly: for tests and measurements.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/partial.h"
#include "cpu_attention_service/policy/fluxion/head_choice.h"
#include "cpu_attention_service/policy/shard_policy.h"
#include "kv_store/kv_shard.h"

namespace tributary {

// Of one shard. Thread-compatible, but for NumBlocks().
class OracleChoice {
 public:
  explicit OracleChoice(const KvShard* shard) : shard_(shard), heads_(shard->spec().num_kv_heads_held()) {}

  // Attends to all blocks of the query, each alone, and merges them into the full outputs. `resident`: as of
  // OutputErrors(), of the query heads held; it stays until the last NumBlocks(). REQUIRES: one query token; local is
  // not empty.
  void Begin(const ReadRequest& request, uint32_t block_tokens, ConstAttentionPartialView resident);

  // How many of the row's best whole blocks, beside those that are not whole, bring |o - o_full| / max over the heads
  // held |o_full| to at most `target`; all of them if nothing less does. Ties are broken in favour of the earlier
  // block. Different KV heads on different threads. `choice` has been scored for the query of Begin().
  uint32_t NumBlocks(uint32_t kv_head, uint32_t row, const HeadChoice& choice, double target);

 private:
  // In f64: out is not normalised but relative to exp(max_ln).
  struct State {
    double max_ln = 0;
    double sum = 0;
    std::vector<double> out;

    void Reset(uint32_t head_dim);
    void Add(double lse_ln, std::span<const float> normalised_out);
  };
  struct Head {
    std::vector<float> k, v;      // of a block
    std::vector<float> lse_ln;    // [row][block]
    std::vector<float> out;       // [row][block][head_dim], normalised
    std::vector<uint32_t> order;  // scratch
    State state;
  };

  void AttendBlock(const ReadRequest& request, uint32_t kv_head, uint32_t block, TokenRange tokens);
  // The state before any block: the resident partial, if it is known.
  void StartFrom(uint32_t q_head, State* state) const;
  std::span<const float> BlockOut(const Head& head, uint32_t row, uint32_t block) const;

  const KvShard* const shard_;
  ConstAttentionPartialView resident_;
  uint32_t num_blocks_ = 0;
  std::vector<Head> heads_;   // [KV head held]
  std::vector<double> full_;  // [q head held][head_dim]
  double largest_norm_ = 0;
};

}  // namespace tributary
