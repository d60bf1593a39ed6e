// A weight matrix in 8 bits, made from one that is stored wider.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/aligned_buffer.h"
#include "base/dtype.h"
#include "base/thread_pool.h"
#include "gpu_worker/device/host/matmul.h"

namespace tributary {

// Codes in [-127, 127] and a scale, largest |value| / 127, for each kInt8GroupInputs inputs of a row: a value is off by
// at most half its group's scale. A group with an infinity or a NaN becomes NaN as a whole. Immutable; thread-safe.
class Int8Matrix {
 public:
  // Rounds a part that is stored in f32, bf16 or f16, row by row over the pool. Throws std::bad_alloc.
  Int8Matrix(ThreadPool& pool, const MatrixPart& stored, size_t in);

  static uint64_t Bytes(size_t out, size_t in);

  MatrixPart part() const { return {codes_.data(), DType::kInt8, scales_.data(), out_}; }

 private:
  size_t out_;
  AlignedBuffer<int8_t> codes_;  // [out][in]
  AlignedBuffer<float> scales_;  // [out][ceil(in / kInt8GroupInputs)]
};

}  // namespace tributary
