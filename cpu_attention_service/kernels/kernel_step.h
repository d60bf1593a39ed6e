// The seam between the online-softmax driver and the storage types. Per ISA, a storage type brings two primitives,
// which know nothing of each other: one that scores K, one that adds weighted V. The driver (decode_attention-inl.h)
// calls them once per step of 64 tokens, so an indirect call costs nothing; K and V storage combine freely and each is
// compiled once.
//
// To add a storage type T to an ISA: write prim_<T>_<isa>-inl.h with a KPrimitive and a VPrimitive in the namespace
// TRIBUTARY_KERNEL_ISA, and name them in that ISA's <isa>.cc tables. Plain functions and data only, internal linkage,
// no inline functions of the standard library (decode_attention_args.h says why).
//
// Rows are the n_q * group_size query vectors of the call, at most kMaxKernelRows at a time (the driver loops). All
// float arrays are 64-byte aligned. Arrays over dims have `padded_dim` columns (zeros beyond head_dim in q), over
// tokens kKvTileTokens columns: slot s has columns [16 s, 16 s + 16).
#pragma once

#include <cstdint>

#include "attention/kv/kv_tile_layout.h"

namespace tributary {

inline constexpr uint32_t kMaxKernelRows = 64;
// What KPrimitive::prepare may write per row: 8 bytes per dim (for example three bf16 parts, or codes) and a header.
inline constexpr uint32_t kPreparedBytesPerDim = 8;
inline constexpr uint32_t kPreparedHeaderBytes = 64;
// A row's part of VPrimitive::accumulate's `weight_sum`.
inline constexpr uint32_t kWeightSumLanes = 16;

// Up to 64 tokens in up to 4 slots of 16 tokens. In a contiguous run the slots are the subgroups of one tile, in order;
// in a piece list they may lie anywhere.
struct KernelStep {
  uint32_t num_slots;  // 1 .. 4; primitives do not touch the columns of the other slots
  // Codes of the slot's 16 tokens: k_subgroup_bytes and v_subgroup_bytes, contiguous.
  const unsigned char* k[kKvTileSubgroups];
  const unsigned char* v[kKvTileSubgroups];
  // K and V params of the slot's TILE; those of the slot's tokens are at 16 * subgroup[slot].
  const unsigned char* k_params[kKvTileSubgroups];
  const unsigned char* v_params[kKvTileSubgroups];
  uint32_t subgroup[kKvTileSubgroups];
  // If `prefetch`: what to fetch into the caches, slot by slot: of a piece list the codes of the next step's slots, of
  // a run what lies some distance ahead. A primitive prefetches (PrefetchCodeLine) about a line for a line that it
  // reads for the first time, so that requests are spread evenly over the step, in an order of its own
  // (lines_ahead-inl.h); K's of next_k, V's of next_v. Not to be read: may lie beyond the memory there is. Params are
  // the driver's to prefetch.
  bool prefetch;
  const unsigned char* next_k[kKvTileSubgroups];
  const unsigned char* next_v[kKvTileSubgroups];
};

// The one way to prefetch codes: into the L1 cache. Requests to the L2 cache alone (prefetcht1) read as fast, but then
// the loads that follow queue behind them on their way to L1, and compute stops overlapping: 0.47 of the read ceiling
// against 0.55 for blocks of 32 tokens, 0.87 against 0.95 for runs (AMD Zen 5).
static inline void PrefetchCodeLine(const unsigned char* line) { __builtin_prefetch(line, 0, 3); }

struct KernelRows {
  uint32_t num_rows;
  uint32_t padded_dim;         // a multiple of kKvDimMultiple
  const KvTileLayout* layout;  // of the call
};

struct KPrimitive {
  // Once per call: turns q [num_rows][padded_dim] into what `score` wants (parts, codes, sums), in `prepared`:
  // num_rows * (kPreparedBytesPerDim * padded_dim + kPreparedHeaderBytes) bytes, 64-byte aligned.
  void (*prepare)(const KernelRows& rows, const float* q, void* prepared);
  // scores[row][token] = q_row . k_token, without softmax_scale. Tokens that are not stored give any value, NaN too.
  void (*score)(const KernelRows& rows, const void* prepared, const KernelStep& step, float* scores);
};

struct VPrimitive {
  // acc[row][dim] += sum over the step's tokens of weights[row][token] * v_token[dim].
  // weights are >= 0, at most 1 up to rounding (or NaN), 0 for tokens that a row does not see; whatever is in such a
  // token's V is finite (the driver passes a copy with zeros). `weights` may be overwritten.
  // weight_sum[row][lane]: += the sum of the row's weights as they were really used (after rounding), spread over the
  // lanes in any way; `out` is divided by it, so that rounding the weights moves no mass. If exact_weights: the sums of
  // the row's f32 weights so far, this step's among them; only to be read.
  void (*accumulate)(const KernelRows& rows, const KernelStep& step, float* weights, float* weight_sum, float* acc);
  bool exact_weights = false;  // uses the weights as f32, or rounds them without a bias worth counting
  // Once per call, after the last step: brings acc into the basis of `out`. Null: it is.
  void (*finish)(const KernelRows& rows, float* acc) = nullptr;
  // How many bytes from next_v[0] on the driver prefetches during the softmax, if the slots of next_v are one run and
  // every row sees all tokens. Null: none.
  uint32_t (*early_bytes)(uint32_t padded_dim) = nullptr;
};

}  // namespace tributary
