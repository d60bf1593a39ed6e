// The one call that every CPU kernel implements. Plain data and plain functions only: this header
// is included by the sources with ISA flags, where an inline function of the standard library would
// be compiled for that ISA and might then be the copy that the linker keeps for the whole binary.
#pragma once

#include <cstdint>

#include "base/limits.h"

namespace tributary {

// Storage type of a K or V row. Values of base/dtype.h's DType.
enum class KvStorage : uint8_t { kF32 = 1, kBf16 = 2, kF16 = 3 };

// Attention of the query heads that share one KV head over one contiguous run of its tokens.
struct DecodeAttentionArgs {
  const float* q = nullptr;  // [group_size][head_dim]
  const void* k = nullptr;   // [num_tokens][head_dim] of k_storage, aligned to its element
  const void* v = nullptr;   // [num_tokens][head_dim] of v_storage, aligned to its element
  KvStorage k_storage = KvStorage::kF32;
  KvStorage v_storage = KvStorage::kF32;
  uint32_t num_tokens = 0;  // 0 gives the empty partial
  uint32_t head_dim = 0;    // <= limits::kMaxHeadDim, a multiple of the kernel's head_dim_multiple
  uint32_t group_size = 0;  // 1 .. limits::kMaxGroupSize
  float softmax_scale = 0;
  float* out = nullptr;     // [group_size][head_dim], normalised
  float* lse_ln = nullptr;  // [group_size]
};

// Reads each K and V row once. Allocates nothing, never fails. NaN and Inf in KV reach the results
// of this call only. The result is a function of the arguments' values alone: the same bits on each
// call.
using DecodeAttentionFn = void (*)(const DecodeAttentionArgs& args);

void DecodeAttentionScalar(const DecodeAttentionArgs& args);
void DecodeAttentionAvx2(const DecodeAttentionArgs& args);
void DecodeAttentionAvx512(const DecodeAttentionArgs& args);

}  // namespace tributary
