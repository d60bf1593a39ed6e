// Matrix products with weights, by OpenBLAS with one thread per call: we share the work out
// ourselves in fixed tiles, so that no result depends on the number of threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>

#include "base/thread_pool.h"

namespace tributary {

// A weight matrix [out][in], row-major, f32. Borrowed.
struct MatrixView {
  const float* data = nullptr;
  size_t out = 0;
  size_t in = 0;

  // Rows [begin, begin + count).
  MatrixView Rows(size_t begin, size_t count) const { return {data + begin * in, count, in}; }
};

// y[rows][out] = x[rows][in] w^T, or += with `accumulate`. One call of the library: `rows` decides
// the rounding.
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
    pool.Run(std::cref(take));  // by reference: a std::function of this size would allocate
  }
}

}  // namespace tributary
