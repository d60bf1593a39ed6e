// Primitives of fp8-e4m3: codes become bf16, exactly, by two table lookups (AVX512-VBMI), and bf16 pairs are multiplied
// with vdpbf16ps. Included after prim_bf16_dot-inl.h, whose q and weights these are.
//
// Inside a run of 16 lanes the codes lie so (KvLaneOffset) that interleaving the low with the high bytes of bf16 within
// 128-bit blocks gives the first pair of each lane from the low halves and the second pair from the high halves.
namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// High and low bytes of the bf16 of each magnitude.
struct Fp8Tables {
  alignas(64) unsigned char high[128];
  alignas(64) unsigned char low[128];
};

constexpr uint32_t Bf16OfFp8Magnitude(uint32_t code) {
  if (code == 0x7f) return 0x7fc0;
  uint32_t exponent = code >> 3, mantissa = code & 7;
  if (code == 0) return 0;
  if (exponent == 0) {  // subnormal: shift the leading one out
    exponent = 1;
    while (mantissa < 8) {
      mantissa *= 2;
      --exponent;  // may wrap: the sum below does too
    }
    mantissa -= 8;
  }
  return ((exponent + 120) << 7) + (mantissa << 4);
}

constexpr Fp8Tables MakeFp8Tables() {
  Fp8Tables tables = {};
  for (uint32_t code = 0; code < 128; ++code) {
    tables.high[code] = Bf16OfFp8Magnitude(code) >> 8;
    tables.low[code] = Bf16OfFp8Magnitude(code) & 0xff;
  }
  return tables;
}
constexpr Fp8Tables kFp8Tables = MakeFp8Tables();

// The tables in registers.
struct Fp8Decoder {
  __m512i high[2], low[2], sign;

  Fp8Decoder()
      : high{_mm512_load_si512(kFp8Tables.high), _mm512_load_si512(kFp8Tables.high + 64)},
        low{_mm512_load_si512(kFp8Tables.low), _mm512_load_si512(kFp8Tables.low + 64)},
        sign(_mm512_set1_epi8(static_cast<char>(0x80))) {}

  // Pairs 0 and 1 of 16 lanes. The lookup ignores the sign bit, which is then added.
  void Decode(const unsigned char* codes, __m512bh* first, __m512bh* second) const {
    const __m512i code = _mm512_loadu_si512(codes);
    const __m512i low_bytes = _mm512_permutex2var_epi8(low[0], code, low[1]);
    const __m512i magnitude = _mm512_permutex2var_epi8(high[0], code, high[1]);
    // magnitude | (code & sign)
    const __m512i high_bytes = _mm512_ternarylogic_epi32(magnitude, code, sign, 0xf8);
    *first = AsBf16(_mm512_unpacklo_epi8(low_bytes, high_bytes));
    *second = AsBf16(_mm512_unpackhi_epi8(low_bytes, high_bytes));
  }
};

// As for bf16, this is not the intrinsic, for the sake of GCC 12's register allocation (prim_int_dot-inl.h).
inline __m512 DotPairs(__m512 sum, __m512bh a, __m512bh b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

// Scores of kRows rows for kSlots slots from `slot` on.
template <uint32_t kRows, uint32_t kSlots, Fetch kFetch>
[[gnu::noinline]] void ScoreFp8Slots(const KernelRows& rows, uint32_t num_parts, const uint32_t* q,
                                     const KernelStep& step, uint32_t slot, float* scores) {
  const Fp8Decoder decoder;
  const uint32_t part_words = rows.padded_dim / 2 * rows.num_rows;
  const unsigned char* next = nullptr;
  if constexpr (kFetch == Fetch::kRun) next = step.next_k[0] + slot * rows.padded_dim * 16;
  __m512 sums[kRows][kSlots];
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t s = 0; s < kSlots; ++s) sums[row][s] = _mm512_setzero_ps();
  }
#pragma GCC unroll 1
  for (uint32_t at = 0; at < rows.padded_dim * 16; at += 64, q += 2 * rows.num_rows) {
    __m512bh first[kSlots], second[kSlots];
#pragma GCC unroll 16
    for (uint32_t s = 0; s < kSlots; ++s) {
      if constexpr (kFetch == Fetch::kRun) PrefetchCodeLine(next + at * kSlots + s * 64);
      if constexpr (kFetch == Fetch::kPieces) PrefetchCodeLine(step.next_k[slot + s] + at);
      decoder.Decode(step.k[slot + s] + at, &first[s], &second[s]);
    }
    for (uint32_t part = 0; part < num_parts; ++part) {
      const uint32_t* pairs = q + part * part_words;
#pragma GCC unroll 16
      for (uint32_t row = 0; row < kRows; ++row) {
        const __m512bh q_first = BroadcastPair(pairs[row]);
#pragma GCC unroll 16
        for (uint32_t s = 0; s < kSlots; ++s) {
          sums[row][s] = DotPairs(sums[row][s], first[s], q_first);
        }
      }
#pragma GCC unroll 16
      for (uint32_t row = 0; row < kRows; ++row) {
        const __m512bh q_second = BroadcastPair(pairs[rows.num_rows + row]);
#pragma GCC unroll 16
        for (uint32_t s = 0; s < kSlots; ++s) {
          sums[row][s] = DotPairs(sums[row][s], second[s], q_second);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t s = 0; s < kSlots; ++s) {
      _mm512_storeu_ps(scores + row * kKvTileTokens + (slot + s) * kKvSubgroupTokens, sums[row][s]);
    }
  }
}

// kRows rows, all slots.
template <uint32_t kRows, Fetch kFetch>
inline void ScoreFp8Rows(const KernelRows& rows, const void* prepared, const KernelStep& step, uint32_t row,
                         float* scores) {
  const uint32_t num_parts = static_cast<const Bf16Q*>(prepared)->num_parts;
  const uint32_t* q = reinterpret_cast<const uint32_t*>(static_cast<const Bf16Q*>(prepared) + 1) + row;
  float* to = scores + row * kKvTileTokens;
  if (step.num_slots == kKvTileSubgroups) {
    ScoreFp8Slots<kRows, kKvTileSubgroups, kFetch>(rows, num_parts, q, step, 0, to);
    return;
  }
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    ScoreFp8Slots<kRows, 1, kFetch>(rows, num_parts, q, step, slot, to);
  }
}

template <Fetch kFetch>
inline uint32_t ScoreFp8Next(const KernelRows& rows, const void* prepared, const KernelStep& step, uint32_t row,
                             float* scores) {
  const uint32_t rest = rows.num_rows - row;
  if (rest >= 4) {
    ScoreFp8Rows<4, kFetch>(rows, prepared, step, row, scores);
    return 4;
  }
  if (rest >= 2) {
    ScoreFp8Rows<2, kFetch>(rows, prepared, step, row, scores);
    return 2;
  }
  ScoreFp8Rows<1, kFetch>(rows, prepared, step, row, scores);
  return 1;
}

inline void ScoreFp8(const KernelRows& rows, const void* prepared, const KernelStep& step, float* scores) {
  uint32_t row = 0;
  switch (FetchOf(step, step.next_k, rows.layout->k_subgroup_bytes)) {
    case Fetch::kRun:
      row = ScoreFp8Next<Fetch::kRun>(rows, prepared, step, 0, scores);
      break;
    case Fetch::kPieces:
      row = ScoreFp8Next<Fetch::kPieces>(rows, prepared, step, 0, scores);
      break;
    case Fetch::kNothing:
      break;
  }
  while (row < rows.num_rows) {
    row += ScoreFp8Next<Fetch::kNothing>(rows, prepared, step, row, scores);
  }
}

// 16 * kVecs dims of the strip whose codes begin at `strip_begin` of each slot, for kRows rows. `next`: the next line
// to fetch of a run.
template <uint32_t kRows, uint32_t kVecs, Fetch kFetch>
[[gnu::noinline]] void AccumulateFp8Dims(const KernelStep& step, uint32_t strip_begin, uint32_t strip_dims,
                                         const uint32_t* pairs, uint32_t padded_dim, const unsigned char* next,
                                         float* acc) {
  const Fp8Decoder decoder;
  __m512 sums[kRows][kVecs];
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      sums[row][i] = _mm512_loadu_ps(acc + row * padded_dim + i * 16);
    }
  }
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
#pragma GCC unroll 1
    for (uint32_t quad = 0; quad < kKvSubgroupTokens / 4; ++quad) {
      const uint32_t at = strip_begin + quad * strip_dims * 4;
      const uint32_t* pair = pairs + slot * kKvSubgroupTokens / 2 + quad * 2;
      __m512bh first[kVecs], second[kVecs];
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kVecs; ++i) {
        if constexpr (kFetch == Fetch::kRun) PrefetchCodeLine(next + i * 64);
        if constexpr (kFetch == Fetch::kPieces) PrefetchCodeLine(step.next_v[slot] + at + i * 64);
        decoder.Decode(step.v[slot] + at + i * 64, &first[i], &second[i]);
      }
      if constexpr (kFetch == Fetch::kRun) next += kVecs * 64;
#pragma GCC unroll 16
      for (uint32_t row = 0; row < kRows; ++row) {
        const __m512bh weight = BroadcastPair(pair[row * (kKvTileTokens / 2)]);
#pragma GCC unroll 16
        for (uint32_t i = 0; i < kVecs; ++i) sums[row][i] = DotPairs(sums[row][i], first[i], weight);
      }
#pragma GCC unroll 16
      for (uint32_t row = 0; row < kRows; ++row) {
        const __m512bh weight = BroadcastPair(pair[row * (kKvTileTokens / 2) + 1]);
#pragma GCC unroll 16
        for (uint32_t i = 0; i < kVecs; ++i) sums[row][i] = DotPairs(sums[row][i], second[i], weight);
      }
    }
  }
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      _mm512_storeu_ps(acc + row * padded_dim + i * 16, sums[row][i]);
    }
  }
}

template <uint32_t kRows, Fetch kFetch>
inline void AccumulateFp8Rows(const KernelStep& step, const uint32_t* pairs, uint32_t padded_dim, float* acc) {
  const unsigned char* next = kFetch == Fetch::kRun ? step.next_v[0] : step.v[0];  // or not read
  const uint32_t dim_bytes = step.num_slots * kKvSubgroupTokens;                   // of a dim, over all slots
  uint32_t dim = 0;
  for (; dim + kKvStripDims <= padded_dim; dim += kKvStripDims) {
    AccumulateFp8Dims<kRows, 4, kFetch>(step, dim * kKvSubgroupTokens, kKvStripDims, pairs, padded_dim,
                                        next + dim * dim_bytes, acc + dim);
  }
  const uint32_t rest = padded_dim - dim;
  for (uint32_t i = 0; i < rest; i += 16) {
    AccumulateFp8Dims<kRows, 1, kFetch>(step, dim * kKvSubgroupTokens + i * 4, rest, pairs, padded_dim,
                                        next + (dim + i) * dim_bytes, acc + dim + i);
  }
}

template <Fetch kFetch>
inline uint32_t AccumulateFp8Next(const KernelRows& rows, const KernelStep& step, const Bf16Weights& rounded,
                                  uint32_t row, float* acc) {
  const uint32_t rest = rows.num_rows - row;
  const uint32_t* pairs = rounded.pairs[row];
  const uint32_t dims = rows.padded_dim;
  if (rest >= 4) {
    AccumulateFp8Rows<4, kFetch>(step, pairs, dims, acc + row * dims);
    return 4;
  }
  if (rest >= 2) {
    AccumulateFp8Rows<2, kFetch>(step, pairs, dims, acc + row * dims);
    return 2;
  }
  AccumulateFp8Rows<1, kFetch>(step, pairs, dims, acc + row * dims);
  return 1;
}

inline void AccumulateFp8(const KernelRows& rows, const KernelStep& step, float* weights, float* weight_sum,
                          float* acc) {
  Bf16Weights rounded;
  RoundWeights(rows, step.num_slots, weights, weight_sum, &rounded);
  uint32_t row = 0;
  switch (FetchOf(step, step.next_v, rows.layout->v_subgroup_bytes)) {
    case Fetch::kRun:
      row = AccumulateFp8Next<Fetch::kRun>(rows, step, rounded, 0, acc);
      break;
    case Fetch::kPieces:
      row = AccumulateFp8Next<Fetch::kPieces>(rows, step, rounded, 0, acc);
      break;
    case Fetch::kNothing:
      break;
  }
  while (row < rows.num_rows) {
    row += AccumulateFp8Next<Fetch::kNothing>(rows, step, rounded, row, acc);
  }
}

constexpr KPrimitive kFp8DotK = {&PrepareBf16Q, &ScoreFp8};
constexpr VPrimitive kFp8DotV = {&AccumulateFp8, /*exact_weights=*/false};

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
