// The rotation of quantised K and V (kv_quantise.h says why). No inline functions: sources with ISA flags include this.
#pragma once

#include <cstdint>

#include "attention/kv/kv_tile_layout.h"

namespace tributary {

static constexpr bool IsRotatedKvStorage(KvStorage storage) {
  return storage == KvStorage::kInt8 || storage == KvStorage::kInt4;
}

// row times an orthonormal Hadamard matrix, block by block of the largest power of two that divides head_dim; in place,
// and its own inverse. Butterflies of width 1, 2, 4, ..., then one product with 1 / sqrt(block): the same bits wherever
// these f32 operations are done in this order.
void HadamardRotate(float* row, uint32_t head_dim);

}  // namespace tributary
