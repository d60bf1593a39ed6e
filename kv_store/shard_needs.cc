#include "kv_store/shard_needs.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "base/status.h"
#include "kv_store/block_summaries.h"
#include "kv_store/kv_shard.h"

namespace tributary {
namespace {

RowCacheOptions RowCacheOf(const ShardSpec& spec, const AttentionPolicy& policy) {
  const std::optional<RowCacheNeed>& need = policy.needs().row_cache;
  if (!need.has_value()) return {};
  RowCacheOptions options;
  options.capacity_rows =
      need->max_rows == 0 ? (spec.capacity_tokens + 1) / 2 : std::min(need->max_rows, spec.capacity_tokens);
  for (uint32_t layer = spec.layer_begin; layer < spec.layer_end; ++layer) {
    for (uint32_t head = spec.kv_head_begin; head < spec.kv_head_end; ++head) {
      options.has_rows.push_back(policy.IsAlwaysDense(layer, head) ? 0 : 1);
    }
  }
  return options;
}

}  // namespace

ShardNeeds NeedsOf(const ShardSpec& spec) {
  const std::unique_ptr<const AttentionPolicy> policy = MakePolicy(spec.policy);
  ShardNeeds needs;
  needs.row_cache = RowCacheOf(spec, *policy);
  needs.summaries = policy->needs().block_summaries;
  for (const uint32_t bits : policy->needs().key_code_bits) needs.key_codes.push_back({bits});
  const uint64_t num_streams = uint64_t{spec.num_layers_held()} * spec.num_kv_heads_held();
  for (const RecordNeed& record : policy->needs().records) {
    const uint64_t per_stream = (spec.capacity_tokens + record.tokens_per_record - 1) / record.tokens_per_record;
    needs.records.push_back({num_streams, per_stream, record.record_bytes});
  }
  return needs;
}

absl::StatusOr<uint64_t> ShardReservedBytes(const ShardSpec& spec, size_t extent_bytes) {
  TRIBUTARY_ASSIGN_OR_RETURN(uint64_t total, KvShard::ReservedBytes(spec, extent_bytes));
  const ShardNeeds needs = NeedsOf(spec);
  TRIBUTARY_ASSIGN_OR_RETURN(const uint64_t row_bytes, RowCache::ReservedBytes(spec, needs.row_cache, extent_bytes));
  total += row_bytes;
  const SummarisedKeys keys{spec.model.head_dim, uint64_t{spec.num_layers_held()} * spec.num_kv_heads_held(),
                            spec.capacity_tokens};
  for (const BlockSummaryOptions& options : needs.summaries) {
    TRIBUTARY_ASSIGN_OR_RETURN(const uint64_t bytes, BlockSummaries::ReservedBytes(options, keys, extent_bytes));
    total += bytes;
  }
  for (const KeyCodeOptions& options : needs.key_codes) {
    TRIBUTARY_ASSIGN_OR_RETURN(const uint64_t bytes, KeyCodes::ReservedBytes(options, keys, extent_bytes));
    total += bytes;
  }
  for (const StreamRecordsOptions& options : needs.records) {
    TRIBUTARY_ASSIGN_OR_RETURN(const uint64_t bytes, StreamRecords::ReservedBytes(options, extent_bytes));
    total += bytes;
  }
  return total;
}

}  // namespace tributary
