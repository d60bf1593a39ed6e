// Products with rows that are stored in 8, 16 or 32 bits, computed in f32. Included by row_kernels-inl.h, whose rules
// hold here: one copy per instruction set, no inline function of another header but intrinsics. Vectors are those of
// the compiler (vector_size), so that the order of a sum is written down and not left to it; intrinsics widen 8 and 16
// bits.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>

#include "gpu_worker/device/host/row_kernels_isa.h"

namespace tributary::TRIBUTARY_ROW_KERNELS_NAMESPACE {

#if defined(__AVX512F__)
#define TRIBUTARY_LANES 16
#elif defined(__AVX2__)
#define TRIBUTARY_LANES 8
#else
#define TRIBUTARY_LANES 4
#endif
#define TRIBUTARY_INLINE static inline __attribute__((always_inline))
static constexpr size_t kLanes = TRIBUTARY_LANES;
using Vec = float __attribute__((vector_size(4 * TRIBUTARY_LANES)));
using Words = uint32_t __attribute__((vector_size(4 * TRIBUTARY_LANES)));
using SignedWords = int32_t __attribute__((vector_size(4 * TRIBUTARY_LANES)));
using Halves = uint16_t __attribute__((vector_size(2 * TRIBUTARY_LANES)));
using Bytes = int8_t __attribute__((vector_size(TRIBUTARY_LANES)));
using Vec4 = float __attribute__((vector_size(16)));
#undef TRIBUTARY_LANES
static_assert(kInt8GroupInputs % kLanes == 0);

// Rows of weights and rows of x that are multiplied together: their sums fill the registers.
static constexpr size_t kOutBlock = 4;
static constexpr size_t kRowBlock = kLanes == 16 ? 4 : 2;

template <typename V>
TRIBUTARY_INLINE V LoadAs(const std::byte* source) {
  V value;
  __builtin_memcpy(&value, source, sizeof(V));
  return value;
}

// kLanes unsigned numbers of 16 bits, in 32.
TRIBUTARY_INLINE Words LoadHalves(const std::byte* source) {
#if defined(__AVX512F__)
  return reinterpret_cast<Words>(_mm512_cvtepu16_epi32(LoadAs<__m256i>(source)));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(_mm256_cvtepu16_epi32(LoadAs<__m128i>(source)));
#else
  return __builtin_convertvector(LoadAs<Halves>(source), Words);
#endif
}

// The ways of storing: bytes of an element, and kLanes of them in f32.
struct F32 {
  static constexpr size_t kBytes = 4;
  static constexpr bool kHasScales = false;
  TRIBUTARY_INLINE Vec Load(const std::byte* source) { return LoadAs<Vec>(source); }
};
struct Bf16 {
  static constexpr size_t kBytes = 2;
  static constexpr bool kHasScales = false;
  TRIBUTARY_INLINE Vec Load(const std::byte* source) { return reinterpret_cast<Vec>(LoadHalves(source) << 16); }
};
// As ToFloat(f16_t) in base/dtype.cc: exact, subnormals, infinities and NaN too.
struct F16 {
  static constexpr size_t kBytes = 2;
  static constexpr bool kHasScales = false;
  TRIBUTARY_INLINE Vec Load(const std::byte* source) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(LoadAs<__m256i>(source));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(LoadAs<__m128i>(source));
#else
    const Words bits = LoadHalves(source);
    const Words magnitude = (bits & 0x7fffu) << 13;
    const Words scaled = reinterpret_cast<Words>(reinterpret_cast<Vec>(magnitude) * 0x1p112f);
    const Words special = reinterpret_cast<Words>(magnitude >= 0x0f800000u) & 0x7f800000u;
    return reinterpret_cast<Vec>(scaled | special | (bits & 0x8000u) << 16);
#endif
  }
};
struct Int8 {
  static constexpr size_t kBytes = 1;
  static constexpr bool kHasScales = true;
  TRIBUTARY_INLINE Vec Load(const std::byte* source) {
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(LoadAs<__m128i>(source)));
#elif defined(__AVX2__)
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source))));
#else
    return __builtin_convertvector(__builtin_convertvector(LoadAs<Bytes>(source), SignedWords), Vec);
#endif
  }
};

TRIBUTARY_INLINE Vec4 AddHalves(Vec4 v) { return v; }
#if defined(__AVX2__)
using Vec8 = float __attribute__((vector_size(32)));
TRIBUTARY_INLINE Vec4 AddHalves(Vec8 v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
}
#endif
#if defined(__AVX512F__)
TRIBUTARY_INLINE Vec4 AddHalves(Vec v) {
  return AddHalves(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
}
#endif

// The sums of four vectors' lanes.
TRIBUTARY_INLINE Vec4 SumLanes(const Vec (&v)[kOutBlock]) {
  const Vec4 a = AddHalves(v[0]), b = AddHalves(v[1]), c = AddHalves(v[2]), d = AddHalves(v[3]);
  const Vec4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Vec4 cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

// Rows of w that are multiplied together, and their scales if they have any.
struct OutBlock {
  const std::byte* w[kOutBlock];
  const float* scales[kOutBlock];
  size_t ahead_bytes;  // from a byte to the one that will be read when this one's neighbours have been
};

// Some memory latencies of reading ahead. Whole blocks, so that each line is fetched once; the processor's own
// prefetching loses the thread at the end of each short row.
static constexpr size_t kAheadBytes = 8192;

// Of kInt8GroupInputs inputs from i on. Past the end of the matrix, it does nothing.
template <typename Stored>
TRIBUTARY_INLINE void FetchAhead(const OutBlock& block, size_t i) {
#pragma GCC unroll 4
  for (size_t o = 0; o < kOutBlock; ++o) {
    const uintptr_t ahead = reinterpret_cast<uintptr_t>(block.w[o] + i * Stored::kBytes) + block.ahead_bytes;
#pragma GCC unroll 4
    for (size_t line = 0; line < kInt8GroupInputs * Stored::kBytes; line += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(ahead + line), 0, 2);
    }
  }
}

// sums[r][o] += the `count` inputs from i on, at most kLanes: fewer are taken with zeros behind them.
template <typename Stored, size_t kRows, bool kIsTail>
TRIBUTARY_INLINE void AddLanes(const OutBlock& block, size_t i, size_t count, const Vec (&scale)[kOutBlock],
                               const float* x, size_t ld_x, Vec (&sums)[kRows][kOutBlock]) {
  Vec lanes[kRows];
#pragma GCC unroll 4
  for (size_t r = 0; r < kRows; ++r) {
    if constexpr (kIsTail) lanes[r] = Vec{};
    __builtin_memcpy(&lanes[r], x + r * ld_x + i, kIsTail ? count * sizeof(float) : sizeof(Vec));
  }
#pragma GCC unroll 4
  for (size_t o = 0; o < kOutBlock; ++o) {
    const std::byte* source = block.w[o] + i * Stored::kBytes;
    std::byte padded[kLanes * Stored::kBytes] = {};
    if constexpr (kIsTail) __builtin_memcpy(padded, source, count * Stored::kBytes);
    Vec row = Stored::Load(kIsTail ? padded : source);
    if constexpr (Stored::kHasScales) row *= scale[o];
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) sums[r][o] += row * lanes[r];
  }
}

template <typename Stored>
TRIBUTARY_INLINE void LoadScales(const OutBlock& block, size_t group, Vec (&scale)[kOutBlock]) {
  if constexpr (Stored::kHasScales) {
#pragma GCC unroll 4
    for (size_t o = 0; o < kOutBlock; ++o) scale[o] = Vec{} + block.scales[o][group];
  }
}

// kRows rows of x times a block of rows of w.
template <typename Stored, size_t kRows>
TRIBUTARY_INLINE void MultiplyBlock(const OutBlock& block, size_t in, const float* x, size_t ld_x,
                                    Vec (&sums)[kRows][kOutBlock]) {
  Vec scale[kOutBlock] = {};
  size_t i = 0;
  for (; i + kInt8GroupInputs <= in; i += kInt8GroupInputs) {
    LoadScales<Stored>(block, i / kInt8GroupInputs, scale);
    FetchAhead<Stored>(block, i);
#pragma GCC unroll 16
    for (size_t j = 0; j < kInt8GroupInputs; j += kLanes) {
      AddLanes<Stored, kRows, false>(block, i + j, kLanes, scale, x, ld_x, sums);
    }
  }
  if (i == in) return;
  LoadScales<Stored>(block, i / kInt8GroupInputs, scale);
  for (; i + kLanes <= in; i += kLanes) AddLanes<Stored, kRows, false>(block, i, kLanes, scale, x, ld_x, sums);
  if (i < in) AddLanes<Stored, kRows, true>(block, i, in - i, scale, x, ld_x, sums);
}

template <typename Stored, size_t kRows>
static void MatVecRows(const MatVecArgs& args, size_t ahead_bytes, size_t first_out, size_t row) {
  const size_t groups = (args.in + kInt8GroupInputs - 1) / kInt8GroupInputs;
  const size_t row_bytes = args.in * Stored::kBytes;
  const size_t count = args.out - first_out < kOutBlock ? args.out - first_out : kOutBlock;
  OutBlock block;
  block.ahead_bytes = ahead_bytes;
  block.w[0] = static_cast<const std::byte*>(args.w) + first_out * row_bytes;
  block.scales[0] = Stored::kHasScales ? args.scales + first_out * groups : nullptr;
#pragma GCC unroll 4
  for (size_t o = 1; o < kOutBlock; ++o) {  // what the last block lacks is its last row again
    block.w[o] = block.w[o - 1] + (o < count ? row_bytes : 0);
    block.scales[o] = Stored::kHasScales ? block.scales[o - 1] + (o < count ? groups : 0) : nullptr;
  }
  Vec sums[kRows][kOutBlock] = {};
  MultiplyBlock<Stored, kRows>(block, args.in, args.x + row * args.ld_x, args.ld_x, sums);
#pragma GCC unroll 4
  for (size_t r = 0; r < kRows; ++r) {
    const Vec4 y = SumLanes(sums[r]);
    float* const out = args.y + (row + r) * args.ld_y + first_out;
    if (count == kOutBlock) {
      __builtin_memcpy(out, &y, sizeof(y));
    } else {
      __builtin_memcpy(out, &y, count * sizeof(float));
    }
  }
}

template <typename Stored>
static void MatVec(const MatVecArgs& args) {
  const size_t block_bytes = kOutBlock * args.in * Stored::kBytes;
  const size_t ahead_bytes = (kAheadBytes + block_bytes - 1) / block_bytes * block_bytes;
  for (size_t out = 0; out < args.out; out += kOutBlock) {
    size_t row = 0;
    for (; row + kRowBlock <= args.rows; row += kRowBlock) MatVecRows<Stored, kRowBlock>(args, ahead_bytes, out, row);
    const size_t rest = args.rows - row;
    if (rest == 1) MatVecRows<Stored, 1>(args, ahead_bytes, out, row);
    if constexpr (kRowBlock == 4) {
      if (rest == 2) MatVecRows<Stored, 2>(args, ahead_bytes, out, row);
      if (rest == 3) MatVecRows<Stored, 3>(args, ahead_bytes, out, row);
    }
  }
}

// kVecs vectors of the dimensions from `dim` on, of kRows rows.
template <typename Stored, size_t kRows, size_t kVecs>
static void WeightedSumBlock(const WeightedSumArgs& args, size_t row, size_t dim) {
  Vec sums[kRows][kVecs];
  for (size_t r = 0; r < kRows; ++r) {
    __builtin_memcpy(sums[r], args.out + (row + r) * args.dim + dim, sizeof(sums[r]));
  }
  const std::byte* v = static_cast<const std::byte*>(args.v) + dim * Stored::kBytes;
  for (size_t t = 0; t < args.tokens; ++t, v += args.dim * Stored::kBytes) {
    Vec values[kVecs];
#pragma GCC unroll 4
    for (size_t i = 0; i < kVecs; ++i) values[i] = Stored::Load(v + i * kLanes * Stored::kBytes);
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      const float p = args.p[(row + r) * args.ld_p + t];
#pragma GCC unroll 4
      for (size_t i = 0; i < kVecs; ++i) sums[r][i] += values[i] * p;
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    __builtin_memcpy(args.out + (row + r) * args.dim + dim, sums[r], sizeof(sums[r]));
  }
}

// The last dimensions, fewer than kLanes, one token at a time.
template <typename Stored>
static void WeightedSumTail(const WeightedSumArgs& args, size_t row, size_t dim) {
  const size_t count = args.dim - dim;
  Vec sum = {};
  __builtin_memcpy(&sum, args.out + row * args.dim + dim, count * sizeof(float));
  const std::byte* v = static_cast<const std::byte*>(args.v) + dim * Stored::kBytes;
  for (size_t t = 0; t < args.tokens; ++t, v += args.dim * Stored::kBytes) {
    std::byte padded[kLanes * Stored::kBytes] = {};
    __builtin_memcpy(padded, v, count * Stored::kBytes);
    sum += Stored::Load(padded) * args.p[row * args.ld_p + t];
  }
  __builtin_memcpy(args.out + row * args.dim + dim, &sum, count * sizeof(float));
}

template <typename Stored, size_t kRows>
static void WeightedSumRows(const WeightedSumArgs& args, size_t row) {
  size_t dim = 0;
  for (; dim + 4 * kLanes <= args.dim; dim += 4 * kLanes) WeightedSumBlock<Stored, kRows, 4>(args, row, dim);
  for (; dim + kLanes <= args.dim; dim += kLanes) WeightedSumBlock<Stored, kRows, 1>(args, row, dim);
  if (dim == args.dim) return;
  for (size_t r = 0; r < kRows; ++r) WeightedSumTail<Stored>(args, row + r, dim);
}

template <typename Stored>
static void WeightedSum(const WeightedSumArgs& args) {
  size_t row = 0;
  for (; row + kRowBlock <= args.rows; row += kRowBlock) WeightedSumRows<Stored, kRowBlock>(args, row);
  const size_t rest = args.rows - row;
  if (rest == 1) WeightedSumRows<Stored, 1>(args, row);
  if constexpr (kRowBlock == 4) {
    if (rest == 2) WeightedSumRows<Stored, 2>(args, row);
    if (rest == 3) WeightedSumRows<Stored, 3>(args, row);
  }
}

template <typename Stored>
static void Widen(const WidenArgs& args) {
  const auto* w = static_cast<const std::byte*>(args.w);
  const float* scales = args.scales;
  float* out = args.out;
  for (size_t row = 0; row < args.rows; ++row) {
    Vec scale = {};
    for (size_t i = 0; i < args.cols; i += kLanes) {
      if constexpr (Stored::kHasScales) {
        if (i % kInt8GroupInputs == 0) scale = Vec{} + *scales++;
      }
      const size_t count = args.cols - i < kLanes ? args.cols - i : kLanes;
      Vec lanes;
      if (count == kLanes) {
        lanes = Stored::Load(w + i * Stored::kBytes);
      } else {
        std::byte padded[kLanes * Stored::kBytes] = {};
        __builtin_memcpy(padded, w + i * Stored::kBytes, count * Stored::kBytes);
        lanes = Stored::Load(padded);
      }
      if constexpr (Stored::kHasScales) lanes *= scale;
      if (count == kLanes) {
        __builtin_memcpy(out + i, &lanes, sizeof(Vec));
      } else {
        __builtin_memcpy(out + i, &lanes, count * sizeof(float));
      }
    }
    w += args.cols * Stored::kBytes;
    out += args.cols;
  }
}

template <typename Stored>
static constexpr StoredRowFunctions kStoredRowFunctions = {
    .mat_vec = MatVec<Stored>,
    .weighted_sum = Stored::kHasScales ? nullptr : WeightedSum<Stored>,
    .widen = Widen<Stored>};

}  // namespace tributary::TRIBUTARY_ROW_KERNELS_NAMESPACE
