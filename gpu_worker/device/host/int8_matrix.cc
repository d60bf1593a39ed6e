#include "gpu_worker/device/host/int8_matrix.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gpu_worker/device/host/row_kernels.h"

namespace tributary {
namespace {

constexpr float kMaxCode = 127.0f;
constexpr float kSmallest = 1e-30f;  // below it all is 0: the inverse of a scale stays finite

size_t NumGroups(size_t in) { return (in + kInt8GroupInputs - 1) / kInt8GroupInputs; }

void RoundGroup(const float* values, size_t count, int8_t* codes, float* scale) {
  float largest = 0.0f;
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(values[i]));
  // max() passes over NaN, the sum does not.
  float sum = 0.0f;
  for (size_t i = 0; i < count; ++i) sum += values[i] * 0.0f;
  if (sum != 0.0f) {
    std::fill_n(codes, count, int8_t{0});
    *scale = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  if (largest < kSmallest) largest = 0.0f;
  *scale = largest / kMaxCode;
  const float inverse = largest == 0.0f ? 0.0f : kMaxCode / largest;
  for (size_t i = 0; i < count; ++i) {
    codes[i] = static_cast<int8_t>(std::clamp(std::nearbyintf(values[i] * inverse), -kMaxCode, kMaxCode));
  }
}

}  // namespace

uint64_t Int8Matrix::Bytes(size_t out, size_t in) { return uint64_t{out} * (in + NumGroups(in) * sizeof(float)); }

Int8Matrix::Int8Matrix(ThreadPool& pool, const MatrixPart& stored, size_t in)
    : out_(stored.out), codes_(stored.out * in), scales_(stored.out * NumGroups(in)) {
  constexpr size_t kRowsAtOnce = 64;
  std::vector<std::vector<float>> rows(static_cast<size_t>(pool.num_threads()), std::vector<float>(in));
  ForEachItem(pool, (out_ + kRowsAtOnce - 1) / kRowsAtOnce, [&](int thread_idx, size_t item) {
    float* const row = rows[static_cast<size_t>(thread_idx)].data();
    for (size_t o = item * kRowsAtOnce; o < std::min(out_, (item + 1) * kRowsAtOnce); ++o) {
      const auto* source = static_cast<const std::byte*>(stored.data) + o * in * DTypeBytes(stored.dtype);
      ConvertToF32(stored.dtype, source, in, row);
      for (size_t group = 0; group < NumGroups(in); ++group) {
        const size_t begin = group * kInt8GroupInputs;
        RoundGroup(row + begin, std::min(kInt8GroupInputs, in - begin), codes_.data() + o * in + begin,
                   scales_.data() + o * NumGroups(in) + group);
      }
    }
  });
}

}  // namespace tributary
