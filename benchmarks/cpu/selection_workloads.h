// The rows of cpu_attention_bench beside attention: choosing blocks by their summaries, and storing KV.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "attention/kv/block_summary_layout.h"
#include "benchmarks/cpu/kv_region.h"
#include "benchmarks/support/paired_rows.h"
#include "cpu_attention_service/kernels/kernels.h"
#include "cpu_attention_service/kernels/selection/block_selection.h"

namespace tributary {

struct SelectionCase {
  const BlockSelectionKernel* kernel = nullptr;
  BlockSummaryLayout layout;
  uint64_t kv_len = 0;
  uint32_t block_tokens = 32;
  uint32_t group_size = 4;
  uint32_t kv_heads = 8;
  uint32_t batch = 1;
  double selected_share = 0.05;
  bool only_choose = false;  // the top-k alone, of scores that lie in the cache
};

// Scores all blocks of a stream for the group's heads, and takes the top k of the group's maxima. Summaries of as many
// streams as fit lie in `memory`, which outlives the workload. RESOURCE_EXHAUSTED if fewer than one per thread fit.
absl::StatusOr<std::unique_ptr<Workload>> MakeSelectionWorkload(SlicePool& pool, std::span<std::byte> memory,
                                                                const SelectionCase& c);

struct IngestCase {
  const CpuKernel* kernel = nullptr;
  KvStorage source = KvStorage::kBf16;  // of the rows, K and V
  uint32_t kv_heads = 8;
  uint32_t batch = 1;
};

// From the exchange layout [token][kv_head][head_dim] into the streams of `region`, which it overwrites. Bytes are
// those read and those stored. A step stores one block of 64 tokens of every stream.
std::unique_ptr<Workload> MakeIngestWorkload(const KvRegion& region, std::span<std::byte> rows, const IngestCase& c,
                                             int num_threads);

}  // namespace tributary
