#include "gpu_worker/device/host/matmul.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "gpu_worker/device/host/blas_library.h"
#include "gpu_worker/device/host/row_kernels.h"

namespace tributary {
namespace {

// Some 100 KiB to 1 MiB, which stays in L2 while all rows of the batch pass over it.
constexpr size_t kTileRows = 64;
// Below some 20 us of reading a matrix, waking threads costs more than it saves.
constexpr size_t kMinSharedWork = size_t{1} << 17;
// Weights that are widened for one product: 1 MiB of f32, so that they are still in a cache when it reads them.
constexpr size_t kWidenedElements = size_t{1} << 18;
constexpr size_t kMinWidenedRows = 64;

size_t NumScales(size_t in) { return (in + kInt8GroupInputs - 1) / kInt8GroupInputs; }

MatrixPart PartRows(const MatrixPart& part, size_t in, size_t begin, size_t count) {
  const size_t element_bytes = part.dtype == DType::kInt8 ? 1 : DTypeBytes(part.dtype);
  return {static_cast<const std::byte*>(part.data) + begin * in * element_bytes, part.dtype,
          part.scales == nullptr ? nullptr : part.scales + begin * NumScales(in), count};
}

void MultiplyF32(const float* w, size_t out, size_t in, const float* x, size_t ld_x, size_t rows, float* y, size_t ld_y,
                 bool accumulate) {
  BlasLibrary::Loaded().sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(rows),
                              static_cast<blasint>(out), static_cast<blasint>(in), 1.0f, x, static_cast<blasint>(ld_x),
                              w, static_cast<blasint>(in), accumulate ? 1.0f : 0.0f, y, static_cast<blasint>(ld_y));
}

bool IsAlignedF32(const MatrixPart& part) {
  return part.dtype == DType::kF32 && reinterpret_cast<uintptr_t>(part.data) % alignof(float) == 0;
}

}  // namespace

void MatrixView::Append(const MatrixPart& part) {
  MatrixPart* const end = std::find_if(parts.begin(), parts.end(), [](const MatrixPart& p) { return p.out == 0; });
  TRIBUTARY_CHECK(end != parts.end());
  *end = part;
  out += part.out;
}

MatrixView MatrixView::Rows(size_t begin, size_t count) const {
  TRIBUTARY_CHECK_LE(begin + count, out);
  MatrixView rows(in);
  for (const MatrixPart& part : parts) {
    const size_t first = std::min(begin, part.out);
    const size_t taken = std::min(count, part.out - first);
    if (taken != 0) rows.Append(PartRows(part, in, first, taken));
    begin -= first;
    count -= taken;
  }
  return rows;
}

void MatMul(const MatrixView& w, const float* x, size_t ld_x, size_t rows, float* y, size_t ld_y, bool accumulate) {
  thread_local std::vector<float> widened;
  const size_t tile_rows = std::max(kMinWidenedRows, kWidenedElements / w.in / kMinWidenedRows * kMinWidenedRows);
  for (const MatrixPart& part : w.parts) {
    if (part.out == 0) continue;
    if (IsAlignedF32(part)) {
      MultiplyF32(static_cast<const float*>(part.data), part.out, w.in, x, ld_x, rows, y, ld_y, accumulate);
      y += part.out;
      continue;
    }
    for (size_t begin = 0; begin < part.out; begin += tile_rows) {
      const MatrixPart tile = PartRows(part, w.in, begin, std::min(tile_rows, part.out - begin));
      if (widened.size() < tile.out * w.in) widened.resize(tile.out * w.in);
      BestRowKernels().stored_as(tile.dtype).widen({tile.data, tile.scales, tile.out, w.in, widened.data()});
      MultiplyF32(widened.data(), tile.out, w.in, x, ld_x, rows, y, ld_y, accumulate);
      y += tile.out;
    }
  }
}

void MatVecEachRow(ThreadPool& pool, const MatrixView& w, const float* x, size_t ld_x, size_t rows, float* y,
                   size_t ld_y) {
  size_t num_tiles = 0;
  for (const MatrixPart& part : w.parts) num_tiles += (part.out + kTileRows - 1) / kTileRows;
  const auto multiply_tile = [&](int /*thread_idx*/, size_t tile_idx) {
    size_t first_y = 0;
    for (const MatrixPart& part : w.parts) {
      const size_t tiles = (part.out + kTileRows - 1) / kTileRows;
      if (tile_idx >= tiles) {
        tile_idx -= tiles;
        first_y += part.out;
        continue;
      }
      const size_t begin = tile_idx * kTileRows;
      const MatrixPart tile = PartRows(part, w.in, begin, std::min(kTileRows, part.out - begin));
      BestRowKernels()
          .stored_as(tile.dtype)
          .mat_vec({tile.data, tile.scales, tile.out, w.in, x, ld_x, rows, y + first_y + begin, ld_y});
      return;
    }
  };
  if (w.out * w.in * rows < kMinSharedWork) {
    for (size_t tile_idx = 0; tile_idx < num_tiles; ++tile_idx) multiply_tile(0, tile_idx);
  } else {
    ForEachItem(pool, num_tiles, multiply_tile);
  }
}

}  // namespace tributary
