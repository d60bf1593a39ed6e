// What the driver keeps of the rows that it works on at a time, and its scratch memory. Included by
// decode_attention-inl.h.
#pragma once

#include <math.h>

#include "cpu_attention_service/kernels/mask_values-inl.h"
#include "cpu_attention_service/kernels/softmax-inl.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// Lies on the stack and has about 370 KiB; only what the geometry needs is touched.
struct Scratch {
  alignas(
      64) unsigned char prepared[kMaxKernelRows * (kPreparedBytesPerDim * limits::kMaxHeadDim + kPreparedHeaderBytes)];
  alignas(64) float acc[kMaxKernelRows * limits::kMaxHeadDim];
  alignas(64) float scores[kMaxKernelRows * kKvTileTokens];  // then weights
  alignas(64) float sum[kMaxKernelRows * kWeightSumLanes];
  alignas(64) float weight_sum[kMaxKernelRows * kWeightSumLanes];
  float max_log2[kMaxKernelRows];
  MaskedValues masked;
};

// Rows [first_row, first_row + rows.num_rows) of the call.
struct RowBatch {
  const DecodeAttentionArgs* args;
  const KPrimitive* k;
  const VPrimitive* v;
  ScoreScale scale;
  uint32_t first_row;
  KernelRows rows;
};

inline RowState RowStateOf(Scratch& scratch, uint32_t row, uint32_t padded_dim) {
  return {scratch.max_log2 + row, scratch.sum + row * kWeightSumLanes, scratch.weight_sum + row * kWeightSumLanes,
          scratch.acc + row * padded_dim};
}

// The state of rows that have seen nothing.
inline void ClearRows(const RowBatch& batch, Scratch& scratch) {
  for (uint32_t i = 0; i < batch.rows.num_rows * batch.rows.padded_dim; ++i) scratch.acc[i] = 0.0f;
  for (uint32_t i = 0; i < batch.rows.num_rows * kWeightSumLanes; ++i) {
    scratch.sum[i] = 0.0f;
    scratch.weight_sum[i] = 0.0f;
  }
  for (uint32_t row = 0; row < batch.rows.num_rows; ++row) scratch.max_log2[row] = -INFINITY;
}

inline void PrepareRows(const RowBatch& batch, Scratch& scratch) {
  const uint32_t padded_dim = batch.rows.padded_dim;
  const uint32_t head_dim = batch.args->layout->head_dim;
  float* q = scratch.acc;  // free until the first step
  for (uint32_t row = 0; row < batch.rows.num_rows; ++row) {
    const float* from = batch.args->q + uint64_t{batch.first_row + row} * head_dim;
    for (uint32_t d = 0; d < padded_dim; ++d) {
      q[row * padded_dim + d] = d < head_dim ? from[d] : 0.0f;
    }
  }
  batch.k->prepare(batch.rows, q, scratch.prepared);
  ClearRows(batch, scratch);
}

inline float* WeightSums(const RowBatch& batch, Scratch& scratch) {
  return batch.v->exact_weights ? scratch.sum : scratch.weight_sum;
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
