// The attention rows of cpu_attention_bench: the kernels over streams that the caches do not hold.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "benchmarks/cpu/kv_region.h"
#include "benchmarks/support/paired_rows.h"
#include "cpu_attention_service/kernels/kernels.h"

namespace tributary {

struct AttentionCase {
  const CpuKernel* kernel = nullptr;
  uint32_t group_size = 4;
  uint32_t n_q = 1;
  bool bf16_q = false;  // q rounded to bf16, as a model in bf16 may have it
  uint32_t kv_heads = 8;
  uint32_t batch = 1;
  // Of the tokens of a stream: 0 for all of them, in one run; else blocks of so many tokens (1: single tokens).
  uint32_t block_tokens = 0;
  double selected_share = 0.05;
  bool ascending = false;                  // the blocks in the order of their ids, else in random order
  std::optional<uint32_t> prefetch_bytes;  // DecodeAttentionArgs's; absent: the best of this machine
  uint64_t resident_bytes = 512u << 10;    // what a thread works on when only computing is measured
};

// The region outlives the workload.
std::unique_ptr<Workload> MakeAttentionWorkload(const KvRegion& region, const AttentionCase& c, int num_threads);

}  // namespace tributary
