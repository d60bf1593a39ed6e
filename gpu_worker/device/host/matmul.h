// Matrix products with weights as they are stored. We share the work out ourselves in fixed tiles, so that no result
// depends on the number of threads.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <functional>

#include "base/dtype.h"
#include "base/thread_pool.h"

namespace tributary {

// Rows of a weight matrix that follow each other in memory, [out][in], row-major.
struct MatrixPart {
  const void* data = nullptr;     // of any alignment
  DType dtype = DType::kF32;      // f32, bf16, f16 or int8
  const float* scales = nullptr;  // int8 alone: [out][ceil(in / kInt8GroupInputs)]
  size_t out = 0;
};

// A weight matrix [out][in]: up to three parts, one above the other, which need not lie together. Borrowed.
struct MatrixView {
  static constexpr size_t kMaxParts = 3;

  MatrixView() = default;
  MatrixView(const float* data, size_t out, size_t in) : parts{{{data, DType::kF32, nullptr, out}}}, out(out), in(in) {}
  explicit MatrixView(size_t in) : in(in) {}

  // Puts a part below the others. REQUIRES: fewer than kMaxParts have rows.
  void Append(const MatrixPart& part);
  // Rows [begin, begin + count).
  MatrixView Rows(size_t begin, size_t count) const;

  std::array<MatrixPart, kMaxParts> parts;  // those in use first
  size_t out = 0;
  size_t in = 0;
};

// y[rows][out] = x[rows][in] w^T, or += with `accumulate`, by OpenBLAS on the calling thread: `rows` decides the
// rounding. Rows that are narrower than f32 are widened tile by tile into memory that the thread keeps.
void MatMul(const MatrixView& w, const float* x, size_t ld_x, size_t rows, float* y, size_t ld_y, bool accumulate);

// y[r] = w x[r] for each row by itself: a row's result does not depend on the others. Reads w once
// from memory for all rows; shares it out over the pool when it is large.
void MatVecEachRow(ThreadPool& pool, const MatrixView& w, const float* x, size_t ld_x, size_t rows, float* y,
                   size_t ld_y);

// Calls work(thread_idx, item) for every item in [0, count), each on whichever thread is free.
template <typename Work>
void ForEachItem(ThreadPool& pool, size_t count, const Work& work) {
  std::atomic<size_t> next{0};
  const auto take = [&](int thread_idx) {
    for (size_t item = next.fetch_add(1); item < count; item = next.fetch_add(1)) work(thread_idx, item);
  };
  if (pool.num_threads() == 1 || count <= 1) {
    take(0);
  } else {
    pool.RunWithHelpers(std::cref(take));  // by reference: a std::function of this size would allocate
  }
}

}  // namespace tributary
