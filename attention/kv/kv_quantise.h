// What the codes and params of quantised K and V mean, and the plain quantisers. One row is one token's K or V of one
// head; rows know nothing of each other, so that a token's stored value does not depend on its neighbours.
//
//   int8      value = scale * code, code in [-127, 127]; in the rotated basis. K is stored + 128, V is not.
//   int4      value = scale * (code - 7.5), code in [0, 15]; in the rotated basis
//   fp8-e4m3  the value itself (OCP 8-bit floating point, E4M3: no Inf, largest 448); not rotated, no scale
//
// Rotated: the row times an orthonormal Hadamard matrix, applied to blocks of the largest power of two that divides
// head_dim. It spreads the few channels of trained keys that are 10 to 30 times larger than the rest over the whole
// row, which would otherwise take the scale for themselves (QuaRot, arXiv:2404.00456, section 4.2; measured in
// docs/numerics.md). q.k is the same in the rotated basis, and a sum of values is rotated back once per call.
//
// scale is the smallest bf16 that covers the row's largest |value|. Rows whose largest |value| is below
// kKvSmallestRowMax are stored as zeros. A row with a NaN or an infinity in it has scale NaN and thus only NaN values
// (fp8: only those elements are NaN). fp8 saturates at 448.
//
// Thread-safe; no allocation.
#pragma once

#include <cstdint>

#include "attention/kv/hadamard.h"
#include "attention/kv/kv_tile_layout.h"
#include "base/dtype.h"

namespace tributary {

inline constexpr float kKvSmallestRowMax = 0x1p-100f;

// One byte per element: int8 as signed byte (without the + 128), int4 as 0 .. 15, fp8 as its bits. *scale is not
// touched for fp8. REQUIRES: a quantised storage; head_dim <= limits::kMaxHeadDim.
void QuantiseKvRow(KvStorage storage, const float* row, uint32_t head_dim, uint8_t* codes, bf16_t* scale);
// The inverse, in the original basis.
void DequantiseKvRow(KvStorage storage, const uint8_t* codes, bf16_t scale, uint32_t head_dim, float* row);

uint8_t Fp8E4m3FromFloat(float value);
float Fp8E4m3ToFloat(uint8_t bits);

}  // namespace tributary
