#include "gpu_worker/device/host/matmul.h"

#include <algorithm>

#include "gpu_worker/device/host/blas_library.h"

namespace tributary {
namespace {

// 64 rows of 4096 f32 are 1 MiB, which stays in L2 while all rows of the batch pass over it.
constexpr size_t kTileRows = 64;
// Below some 100 us of reading a matrix, waking threads costs more than it saves.
constexpr size_t kMinSharedWork = size_t{1} << 20;

}  // namespace

void MatMul(const MatrixView& w, const float* x, size_t ld_x, size_t rows, float* y, size_t ld_y, bool accumulate) {
  BlasLibrary::Loaded().sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(rows),
                              static_cast<blasint>(w.out), static_cast<blasint>(w.in), 1.0f, x,
                              static_cast<blasint>(ld_x), w.data, static_cast<blasint>(w.in), accumulate ? 1.0f : 0.0f,
                              y, static_cast<blasint>(ld_y));
}

void MatVecEachRow(ThreadPool& pool, const MatrixView& w, const float* x, size_t ld_x, size_t rows, float* y,
                   size_t ld_y) {
  const size_t num_tiles = (w.out + kTileRows - 1) / kTileRows;
  const BlasLibrary& blas = BlasLibrary::Loaded();
  const auto multiply_tile = [&](int /*thread_idx*/, size_t tile_idx) {
    const size_t begin = tile_idx * kTileRows;
    const MatrixView tile = w.Rows(begin, std::min(kTileRows, w.out - begin));
    for (size_t r = 0; r < rows; ++r) {
      blas.sgemv(CblasRowMajor, CblasNoTrans, static_cast<blasint>(tile.out), static_cast<blasint>(tile.in), 1.0f,
                 tile.data, static_cast<blasint>(tile.in), x + r * ld_x, 1, 0.0f, y + r * ld_y + begin, 1);
    }
  };
  if (w.out * w.in * rows < kMinSharedWork) {
    for (size_t tile_idx = 0; tile_idx < num_tiles; ++tile_idx) multiply_tile(0, tile_idx);
  } else {
    ForEachItem(pool, num_tiles, multiply_tile);
  }
}

}  // namespace tributary
