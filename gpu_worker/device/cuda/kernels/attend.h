// Decode attention over the resident slots of each row: first part, split over tokens (flash-decoding: Dao et al.
// 2023). Each (row, KV head, split) is attended by one block for all query heads of the group; MergePartials()
// (merge.h) puts the splits together. A row's splits depend on its number of tokens and on the rule alone, not on the
// other rows.
//
// bf16 and f16 KV with head_dim 32, 64, 96, 128 or 256 go over tensor cores, q and the softmax weights as the sum of
// two 16-bit numbers, so that only the KV is rounded. Everything else, capped scores too, takes a plain f32 kernel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu_worker/device/cuda/kernels/decode_rows.h"
#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

// A good split_tokens: small for few rows, so that all multiprocessors have work; large for many, so that there is less
// to put together. Whoever wants a row's result not to depend on the batch takes kDefaultSplitTokens instead.
inline constexpr uint32_t kDefaultSplitTokens = 256;
constexpr uint32_t SplitTokensFor(uint32_t num_rows) { return num_rows <= 4 ? 128 : num_rows <= 16 ? 512 : 1024; }

// How the tokens of a row are cut: into as few splits of at least split_tokens (a multiple of 16) as max_splits allows.
struct SplitRule {
  uint32_t split_tokens = kDefaultSplitTokens;
  uint32_t max_splits = 0;
};

// Device memory of AttendWorkspaceBytes(): partials of the splits, softmax in base 2 inside.
struct AttendWorkspace {
  float* out = nullptr;      // [num_rows][num_q_heads][max_splits][head_dim], not normalised
  float* max_sum = nullptr;  // [num_rows][num_q_heads][max_splits][2]
};
size_t AttendWorkspaceBytes(uint32_t num_rows, const KvGeometry& geometry, const SplitRule& rule);
AttendWorkspace MakeAttendWorkspace(void* memory, uint32_t num_rows, const KvGeometry& geometry, const SplitRule& rule);

struct AttendArgs {
  const DecodeRowDesc* rows = nullptr;
  uint32_t num_rows = 0;  // at most kMaxDecodeRows
  // Only rows of this KV dtype are attended; the workspace of others is left alone. One launch for each dtype in use.
  DType kv_dtype = DType::kUnset;
  uint32_t layer = 0;
  KvGeometry geometry;
  float softmax_scale = 0;
  float soft_cap = 0;        // if not 0: score = soft_cap tanh(softmax_scale q.k / soft_cap)
  const float* q = nullptr;  // [num_rows][num_q_heads][head_dim], 16-byte aligned
  SplitRule rule;
  AttendWorkspace workspace;
  // Rows with `scores` get them.
  bool keep_scores = false;
};
cudaError_t Attend(const AttendArgs& args, const Launch& launch);

}  // namespace tributary::gpu
