// HadamardRotate (attention/kv/hadamard.h) with 16 lanes: the same additions in the same order, so the same bits.
#pragma once

#include <immintrin.h>

#include "attention/kv/hadamard.h"
#include "base/limits.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// One butterfly inside a vector: lanes whose bit kHalf is clear get low + high, the others low - high.
template <uint32_t kHalf>
inline __m512 ButterflyInside(__m512 x) {
  constexpr __mmask16 kHighLanes = kHalf == 1 ? 0xaaaa : kHalf == 2 ? 0xcccc : kHalf == 4 ? 0xf0f0 : 0xff00;
  __m512 swapped;
  if constexpr (kHalf == 1) {
    swapped = _mm512_permute_ps(x, 0xb1);
  } else if constexpr (kHalf == 2) {
    swapped = _mm512_permute_ps(x, 0x4e);
  } else if constexpr (kHalf == 4) {
    swapped = _mm512_shuffle_f32x4(x, x, 0xb1);
  } else {
    swapped = _mm512_shuffle_f32x4(x, x, 0x4e);
  }
  return _mm512_mask_sub_ps(_mm512_add_ps(x, swapped), kHighLanes, swapped, x);
}

// head_dim elements, in place. The plain function where blocks are shorter than a vector.
inline void RotateRow(float* row, uint32_t head_dim) {
  const uint32_t block = head_dim & (~head_dim + 1);
  if (block < 16) {
    HadamardRotate(row, head_dim);
    return;
  }
  constexpr uint32_t kMaxVecs = limits::kMaxHeadDim / 16;
  __m512 x[kMaxVecs];
  const uint32_t num_vecs = head_dim / 16;
  for (uint32_t i = 0; i < num_vecs; ++i) {
    __m512 v = _mm512_loadu_ps(row + 16 * i);
    v = ButterflyInside<1>(v);
    v = ButterflyInside<2>(v);
    v = ButterflyInside<4>(v);
    x[i] = ButterflyInside<8>(v);
  }
  for (uint32_t half = 1; half < block / 16; half *= 2) {
    for (uint32_t first = 0; first < num_vecs; first += 2 * half) {
      for (uint32_t i = first; i < first + half; ++i) {
        const __m512 low = x[i], high = x[i + half];
        x[i] = _mm512_add_ps(low, high);
        x[i + half] = _mm512_sub_ps(low, high);
      }
    }
  }
  const __m512 norm = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(_mm512_set1_ps(static_cast<float>(block))));
  for (uint32_t i = 0; i < num_vecs; ++i) _mm512_storeu_ps(row + 16 * i, _mm512_mul_ps(x[i], norm));
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
