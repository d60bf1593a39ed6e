// Packing of f32, bf16 and f16 rows into tiles with AVX-512 F, BW, DQ, VL. Built with those flags; called only where
// the CPU has them (kernels.cc). pack_quant_avx512-inl.h has the quantised storages.
//
// A subgroup of 16 tokens of which all are there is written by vectors: K as a transposition of 32-bit words (16 tokens
// x 16 words), V as interleaved or plain rows. The rest is written element by element. Subgroups of whole tiles are
// made in the first-level cache, where their CRC is taken, and leave it by non-temporal stores: nobody reads them soon,
// and the lines are not fetched first. That is no slower than streaming each vector when it is made (bf16 and f16 15 to
// 17 % faster, f32 4 to 7 % slower, CRC included).
#include <immintrin.h>

#include <span>

#include "attention/kv/kv_pack.h"
#include "base/crc32c.h"
#include "base/limits.h"

namespace tributary {
namespace {

// Rows of one K or V: row i at rows + i * stride_bytes, head_dim elements.
struct Rows {
  const unsigned char* data;
  size_t stride_bytes;
  uint32_t row_bytes;  // of head_dim elements
};

inline const unsigned char* RowAt(const Rows& rows, uint32_t row) { return rows.data + row * rows.stride_bytes; }

// 64 (32) bytes of a row from `begin` on; zeros beyond its end.
inline __m512i Load64(const Rows& rows, uint32_t row, uint32_t begin) {
  const unsigned char* from = RowAt(rows, row) + begin;
  const uint32_t rest = begin < rows.row_bytes ? rows.row_bytes - begin : 0;
  if (rest >= 64) return _mm512_loadu_si512(from);
  return _mm512_maskz_loadu_epi8((uint64_t{1} << rest) - 1, from);
}
inline __m256i Load32(const Rows& rows, uint32_t row, uint32_t begin) {
  const unsigned char* from = RowAt(rows, row) + begin;
  const uint32_t rest = begin < rows.row_bytes ? rows.row_bytes - begin : 0;
  if (rest >= 32) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm256_maskz_loadu_epi8((1u << rest) - 1, from);
}

inline void Store64(unsigned char* to, __m512i value) { _mm512_storeu_si512(to, value); }
inline void Store32(unsigned char* to, __m256i value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value); }
// Past the caches. REQUIRES: both aligned to 64, a multiple of 64 bytes.
inline void StreamOut(const unsigned char* from, uint32_t bytes, unsigned char* to) {
  for (uint32_t i = 0; i < bytes; i += 64) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_load_si512(from + i));
  }
}

// rows[i] word j -> rows[j] word i.
inline void Transpose16x16(__m512i (&rows)[16]) {
  __m512i t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4) {  // 4 x 4 words in each 128-bit lane
    const __m512i ab_low = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    const __m512i ab_high = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    const __m512i cd_low = _mm512_unpacklo_epi32(rows[i + 2], rows[i + 3]);
    const __m512i cd_high = _mm512_unpackhi_epi32(rows[i + 2], rows[i + 3]);
    t[i] = _mm512_unpacklo_epi64(ab_low, cd_low);
    t[i + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
    t[i + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
    t[i + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {  // 4 x 4 of those lanes
    const __m512i low01 = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88);
    const __m512i high01 = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
    const __m512i low23 = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88);
    const __m512i high23 = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
    rows[i] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    rows[i + 4] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    rows[i + 12] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
}

}  // namespace
}  // namespace tributary

// Needs Transpose16x16 and Store64.
#include "cpu_attention_service/kernels/pack_quant_avx512-inl.h"

namespace tributary {
namespace {

// K codes of 16 tokens. A word is an f32, a pair of bf16, or two f16, which then part: f16 lies dim by dim.
template <KvStorage kStorage>
void PackKSubgroup(const Rows& rows, uint32_t first_row, uint32_t padded_dim, unsigned char* to) {
  const uint32_t num_words = padded_dim * (kStorage == KvStorage::kF32 ? 4 : 2) / 4;
  const __m512i even_then_odd = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28, 26,
                                                 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  for (uint32_t word = 0; word < num_words; word += 16) {
    __m512i block[16];
#pragma GCC unroll 16
    for (uint32_t token = 0; token < 16; ++token) {
      block[token] = Load64(rows, first_row + token, word * 4);
    }
    Transpose16x16(block);
    const uint32_t words = num_words - word < 16 ? num_words - word : 16;
#pragma GCC unroll 16
    for (uint32_t i = 0; i < 16; ++i) {
      if (i >= words) break;
      if (kStorage == KvStorage::kF16) block[i] = _mm512_permutexvar_epi16(even_then_odd, block[i]);
      Store64(to + (word + i) * 64, block[i]);
    }
  }
}

// V codes of 16 tokens: pairs of bf16 rows interleaved, others row by row, strip by strip.
template <KvStorage kStorage>
void PackVSubgroup(const Rows& rows, uint32_t first_row, uint32_t padded_dim, unsigned char* to) {
  for (uint32_t strip = 0; strip < padded_dim; strip += kKvStripDims) {
    const uint32_t rest = padded_dim - strip;
    const uint32_t strip_dims = rest < kKvStripDims ? rest : kKvStripDims;
    constexpr uint32_t kPack = kStorage == KvStorage::kBf16 ? 2 : 1;
    for (uint32_t token = 0; token < kKvSubgroupTokens; token += kPack) {
      const uint32_t row = first_row + token;
      for (uint32_t dim = strip; dim < strip + strip_dims; dim += 16) {
        if constexpr (kStorage == KvStorage::kF32) {
          Store64(to, Load64(rows, row, dim * 4));
          to += 64;
        } else if constexpr (kStorage == KvStorage::kF16) {
          Store32(to, Load32(rows, row, dim * 2));
          to += 32;
        } else {
          const __m512i even = _mm512_cvtepu16_epi32(Load32(rows, row, dim * 2));
          const __m512i odd = _mm512_cvtepu16_epi32(Load32(rows, row + 1, dim * 2));
          Store64(to, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
          to += 64;
        }
      }
    }
  }
}

using PackSubgroupFn = void (*)(const Rows&, uint32_t, uint32_t, unsigned char*);

struct SubgroupFns {
  PackSubgroupFn k;
  PackSubgroupFn v;
};
template <KvStorage kStorage>
constexpr SubgroupFns kSubgroupFns = {&PackKSubgroup<kStorage>, &PackVSubgroup<kStorage>};

const SubgroupFns& FnsOf(KvStorage storage) {
  if (storage == KvStorage::kF32) return kSubgroupFns<KvStorage::kF32>;
  if (storage == KvStorage::kBf16) return kSubgroupFns<KvStorage::kBf16>;
  return kSubgroupFns<KvStorage::kF16>;
}

uint32_t ElementBytes(KvStorage storage) { return storage == KvStorage::kF32 ? 4 : 2; }

// K or V of a call.
struct Part {
  KvStorage storage;
  KvStorage source;
  Rows rows;
  bool is_k;
  uint32_t codes_begin;
  uint32_t subgroup_bytes;
  uint32_t params_begin;
};

// Codes of a whole subgroup, from row `row` on, to `codes`; its params to their place in the tile.
void PackSubgroup(const KvTileLayout& layout, const Part& part, uint32_t row, uint32_t subgroup, unsigned char* codes,
                  unsigned char* tile) {
  if (IsFloatKvStorage(part.storage)) {
    const SubgroupFns& fns = FnsOf(part.storage);
    (part.is_k ? fns.k : fns.v)(part.rows, row, layout.padded_dim, codes);
    return;
  }
  const QuantRows rows = {
      part.storage,      part.source, RowAt(part.rows, row), part.rows.stride_bytes, layout.head_dim,
      layout.padded_dim, part.is_k};
  unsigned char* params = tile + part.params_begin + subgroup * kKvSubgroupTokens * KvParamBytesPerToken(part.storage);
  PackQuantSubgroup(rows, codes, params);
}

// A tile of which all tokens are there, from row `row` on. Returns the CRC of its record.
uint32_t PackTile(const KvTileLayout& layout, const Part& k, const Part& v, uint32_t row, unsigned char* tile) {
  alignas(64) unsigned char codes[kKvSubgroupTokens * limits::kMaxHeadDim * sizeof(float)];
  uint32_t crc = 0;
  for (const Part* part : {&k, &v}) {
    for (uint32_t subgroup = 0; subgroup < kKvTileSubgroups; ++subgroup) {
      PackSubgroup(layout, *part, row + subgroup * kKvSubgroupTokens, subgroup, codes, tile);
      crc = Crc32c(std::as_bytes(std::span(codes, part->subgroup_bytes)), crc);
      StreamOut(codes, part->subgroup_bytes, tile + part->codes_begin + subgroup * part->subgroup_bytes);
    }
  }
  const std::span record(tile, layout.record_bytes);
  return Crc32c(std::as_bytes(record.subspan(layout.k_params_begin)), crc);
}

// Tokens of a subgroup that is not whole.
void PackSomeTokens(const KvPackArgs& args, uint32_t row, uint32_t count) {
  KvPackArgs some = args;
  some.k = static_cast<const unsigned char*>(args.k) + row * args.k_stride_bytes;
  some.v = static_cast<const unsigned char*>(args.v) + row * args.v_stride_bytes;
  some.num_tokens = count;
  some.token_begin = args.token_begin + row;
  PackKvPlain(some);
}

}  // namespace

void PackKvAvx512(const KvPackArgs& args) {
  const KvTileLayout& layout = args.layout;
  const auto rows = [&](const void* data, size_t stride_bytes, KvStorage source) -> Rows {
    return {static_cast<const unsigned char*>(data), stride_bytes, layout.head_dim * ElementBytes(source)};
  };
  const Part k = {
      layout.k_storage,        args.k_source,        rows(args.k, args.k_stride_bytes, args.k_source), true, 0,
      layout.k_subgroup_bytes, layout.k_params_begin};
  const Part v = {layout.v_storage,
                  args.v_source,
                  rows(args.v, args.v_stride_bytes, args.v_source),
                  false,
                  layout.v_begin,
                  layout.v_subgroup_bytes,
                  layout.v_params_begin};
  bool streamed = false;
  for (uint32_t row = 0; row < args.num_tokens;) {
    const uint64_t position = args.token_begin + row;
    const uint32_t token = position % kKvTileTokens;
    const uint32_t subgroup = token / kKvSubgroupTokens;
    unsigned char* tile = static_cast<unsigned char*>(args.tiles) + position / kKvTileTokens * layout.record_bytes;
    const uint32_t rest = args.num_tokens - row;
    if (token % kKvSubgroupTokens != 0 || rest < kKvSubgroupTokens) {
      const uint32_t to_next = kKvSubgroupTokens - token % kKvSubgroupTokens;
      const uint32_t count = rest < to_next ? rest : to_next;
      PackSomeTokens(args, row, count);
      row += count;
    } else if (token == 0 && rest >= kKvTileTokens) {
      const uint32_t crc = PackTile(layout, k, v, row, tile);
      if (args.tile_crcs != nullptr) {
        args.tile_crcs[position / kKvTileTokens - args.token_begin / kKvTileTokens] = crc;
      }
      streamed = true;
      row += kKvTileTokens;
    } else {
      for (const Part* part : {&k, &v}) {
        unsigned char* codes = tile + part->codes_begin + subgroup * part->subgroup_bytes;
        PackSubgroup(layout, *part, row, subgroup, codes, tile);
      }
      row += kKvSubgroupTokens;
    }
  }
  if (streamed) _mm_sfence();  // before anybody is told that the tokens are there
}

}  // namespace tributary
