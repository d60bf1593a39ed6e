// The rows of cpu_attention_bench that find tokens by the codes of their keys.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "benchmarks/support/paired_rows.h"
#include "cpu_attention_service/kernels/selection/block_selection.h"

namespace tributary {

struct KeyScanCase {
  const BlockSelectionKernel* kernel = nullptr;
  uint32_t bits = 2;
  uint32_t head_dim = 128;
  uint64_t kv_len = 0;
  uint32_t group_size = 4;
  uint32_t kv_heads = 8;
  uint32_t batch = 1;
  double selected_share = 0.01;
};

// Finds the best share of a stream's tokens for each of the group's heads, as a policy on a node does. Codes of as many
// streams as fit lie in `memory`, which outlives the workload. RESOURCE_EXHAUSTED if fewer than one per thread fit.
absl::StatusOr<std::unique_ptr<Workload>> MakeKeyScanWorkload(SlicePool& pool, std::span<std::byte> memory,
                                                              const KeyScanCase& c);

}  // namespace tributary
