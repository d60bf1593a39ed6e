// What a shard keeps beside its K and V because its policy asks for it (PolicyNeeds), and what all of it takes: the one
// place that both a node and the coordinator's ledger count by. All memory comes from the pool of the shards and is
// reserved when the shard is opened.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/kv/block_summary_options.h"
#include "cluster/shard_spec.h"
#include "kv_store/key_codes.h"
#include "kv_store/row_cache.h"
#include "kv_store/stream_records.h"
#include "policy/policy.h"

namespace tributary {

struct ShardNeeds {
  RowCacheOptions row_cache;                   // no capacity: none
  std::vector<BlockSummaryOptions> summaries;  // kept by the shard itself (KvShard::KeepSummaries)
  std::vector<KeyCodeOptions> key_codes;       // likewise (KvShard::KeepCodes)
  std::vector<StreamRecordsOptions> records;   // of the policy's own making; in the order of PolicyNeeds::records
};

// REQUIRES: Validate(spec) is OK.
ShardNeeds NeedsOf(const ShardSpec& spec);

// K, V and needs. INVALID_ARGUMENT: the spec, or something larger than an extent.
absl::StatusOr<uint64_t> ShardReservedBytes(const ShardSpec& spec, size_t extent_bytes);

}  // namespace tributary
