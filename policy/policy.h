// A policy as the worker, the nodes and the frames know it: what it needs from them, and its rule at each moment at
// which something is selected. Nobody outside policy/ compares a policy's name.
//
// Pure: no KV, no clock, no state; the same arguments give the same answer on every machine. policy/README.md
// walks through each policy.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "attention/kv/block_summary_options.h"
#include "policy/hgca/maw_update.h"
#include "policy/policy_params.h"
#include "policy/selection.h"

namespace tributary {

// Records that a node keeps for each KV head of each layer, for as many tokens as a shard has room for
// (kv_store/stream_records.h).
struct RecordNeed {
  uint32_t tokens_per_record = 0;  // at least 1
  uint32_t record_bytes = 0;       // a multiple of 64

  friend bool operator==(const RecordNeed&, const RecordNeed&) = default;
};

// What a policy asks of the services.
struct PolicyNeeds {
  // Bytes per token and KV head of policy metadata that travel behind K and V in a spill frame.
  uint32_t spill_bytes_per_token = 0;
  // The node keeps the selected K and V of each KV head in contiguous memory beside the full shard.
  bool row_cache = false;
  // Selected tokens of one KV head of one shard at most; 0: as many as the rules keep.
  uint64_t max_cache_tokens = 0;
  // Summaries of the blocks of keys that the node keeps: of several block sizes at once, if need be.
  std::vector<BlockSummaryOptions> block_summaries;
  // What else the node keeps.
  std::vector<RecordNeed> records;
  // Of queries that read a selection, the node wants the weights of the tokens read, for their saliences
  // (HeadSelection).
  bool cached_salience = false;
  // How weights become saliences (policy/hgca/maw.h).
  float salience_alpha = 0;
  GroupAggregate group_aggregate = GroupAggregate::kMean;

  MawParams maw_params() const { return {salience_alpha, group_aggregate}; }

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

enum class SelectionMoment {
  // A block has been stored; saliences: what travelled with it. Kept tokens join those selected before.
  kSpill,
  // Appended queries have read the whole shard; saliences: their mean weights. Replaces the selection.
  kAppend,
  // What is selected may be too much; saliences: of the selected tokens, relative to uniform. Replaces the selection.
  kCacheFull,
};

class AttentionPolicy {
 public:
  virtual ~AttentionPolicy() = default;

  virtual const PolicyNeeds& needs() const = 0;
  // False: every remote token is read, always.
  virtual bool is_sparse() const { return true; }
  // False: by its parameters everything is selected, so a head that reads everything has not fallen back.
  virtual bool may_leave_out() const { return is_sparse(); }
  // What its facet takes of the worker's resident pool, at most: promised when the sequence is placed.
  virtual uint64_t FacetBytes(const FacetDemand& demand) const { return 0; }
  // True for a (layer, KV head) that always reads everything, by configuration. False does not mean that it reads less.
  virtual bool IsAlwaysDense(uint32_t layer, uint32_t kv_head) const = 0;
  // The rule by which one KV head selects (SelectUnits); nullopt = nothing is selected at this moment. `population`:
  // the tokens over which the saliences' softmax was taken (kSpill: resident, kAppend: stored in the shard, kCacheFull:
  // selected so far); where there are none there is nothing to select either. REQUIRES (checked): population > 0.
  virtual std::optional<SelectionRule> RuleAt(SelectionMoment moment, uint64_t population) const = 0;
};

// The rules of a checked policy; policy/policy_registry.h has the table.
std::unique_ptr<const AttentionPolicy> MakePolicy(const PolicyParams& params);

}  // namespace tributary
