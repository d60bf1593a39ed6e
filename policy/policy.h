// A policy as everybody knows it who is not one of its seats: what memory it needs, and whether it may leave tokens
// out. What it selects, when and by which rule is between its seats, which make its rules themselves from PolicyParams:
// a policy in whose life there are other moments, or no rule at all, changes nothing here.
//
// It is pure: no KV, no clock, no state; the same arguments give the same answer on every machine. policy/README.md
// walks through each policy.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "attention/kv/block_summary_options.h"
#include "policy/policy_params.h"

namespace tributary {

// Copies of chosen tokens that a node keeps side by side for each KV head, in addition to the shard
// (kv_store/row_cache.h). A head that is always dense has none.
struct RowCacheNeed {
  uint64_t max_rows = 0;  // of one KV head of one shard; 0: half of the tokens that the shard has room for

  friend bool operator==(const RowCacheNeed&, const RowCacheNeed&) = default;
};

// Records that a node keeps for each KV head of each layer, for as many tokens as a shard has room for
// (kv_store/stream_records.h).
struct RecordNeed {
  uint32_t tokens_per_record = 0;  // at least 1
  uint32_t record_bytes = 0;       // a multiple of 64

  friend bool operator==(const RecordNeed&, const RecordNeed&) = default;
};

// What a node reserves for a policy with each shard, beside K and V (kv_store/shard_needs.h).
struct PolicyNeeds {
  std::optional<RowCacheNeed> row_cache;
  // Summaries of the blocks of keys: of several block sizes at once, if need be.
  std::vector<BlockSummaryOptions> block_summaries;
  // Coarse codes of the keys, of this many bits per dim each (attention/kv/key_code_layout.h).
  std::vector<uint32_t> key_code_bits;
  // What the policy writes itself.
  std::vector<RecordNeed> records;

  friend bool operator==(const PolicyNeeds&, const PolicyNeeds&) = default;
};

// A sequence on a worker, for what a policy keeps there.
struct FacetDemand {
  uint32_t num_layers = 0;
  uint32_t num_kv_heads = 0;
  uint32_t num_q_heads = 0;
  uint64_t resident_tokens = 0;     // slots
  uint64_t max_context_tokens = 0;  // that it will ever have
};

class AttentionPolicy {
 public:
  virtual ~AttentionPolicy() = default;

  virtual const PolicyNeeds& needs() const = 0;
  // False: every remote token is read, always.
  virtual bool is_sparse() const { return true; }
  // False: by its parameters everything is selected, so a head that reads everything has not fallen back.
  virtual bool may_leave_out() const { return is_sparse(); }
  // True: it is right for a model whose attention caps its scores. Who bounds the mass of tokens by q.k alone is not:
  // a cap keeps the order of scores, and not their distances.
  virtual bool serves_soft_cap() const { return !is_sparse(); }
  // What its facet takes of the worker's resident pool, at most: promised when the sequence is placed.
  virtual uint64_t FacetBytes(const FacetDemand& demand) const { return 0; }
  // True for a (layer, KV head) that always reads everything, by configuration. False does not mean that it reads less.
  virtual bool IsAlwaysDense(uint32_t layer, uint32_t kv_head) const = 0;
};

// The rules of a checked policy; policy/policy_registry.h has the table.
std::unique_ptr<const AttentionPolicy> MakePolicy(const PolicyParams& params);

}  // namespace tributary
