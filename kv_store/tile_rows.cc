#include "kv_store/tile_rows.h"

#include <cstring>

namespace tributary {
namespace {

constexpr uint32_t kLanesPerRun = 16;

// Of K, a token's elements that share a lane lie together (of fp8 in two halves), one lane in each run of 16 lanes.
template <KvStorage storage>
void CopyK(uint32_t padded_dim, const std::byte* from, uint32_t from_token, std::byte* to, uint32_t to_token) {
  constexpr uint32_t kLaneBytes = KvPack(storage) * KvCodeBits(storage) / 8;
  constexpr uint32_t kRunBytes = kLanesPerRun * kLaneBytes;
  constexpr bool kHalves = storage == KvStorage::kFp8E4m3;
  constexpr uint32_t kPieceBytes = kHalves ? kLaneBytes / 2 : kLaneBytes;
  const auto lane_byte = [](uint32_t token) { return KvLaneOffset(storage, token, 0) * KvCodeBits(storage) / 8; };
  from += lane_byte(from_token);
  to += lane_byte(to_token);
  for (uint32_t dim = 0; dim < padded_dim; dim += KvPack(storage)) {
    std::memcpy(to, from, kPieceBytes);
    if (kHalves) {
      constexpr uint32_t kSecondHalf = KvLaneOffset(storage, 0, KvPack(storage) / 2);
      std::memcpy(to + kSecondHalf, from + kSecondHalf, kPieceBytes);
    }
    from += kRunBytes;
    to += kRunBytes;
  }
}

// One nibble of a byte.
inline void CopyNibble(const std::byte* from, uint32_t from_nibble, std::byte* to, uint32_t to_nibble) {
  const std::byte code = (*from >> (4 * from_nibble)) & std::byte{0xf};
  const std::byte others = *to & (std::byte{0xf0} >> (4 * to_nibble));
  *to = others | (code << (4 * to_nibble));
}

// Of V, `pack` tokens are interleaved: an element of each lane.
template <KvStorage storage>
void CopyV(uint32_t padded_dim, const std::byte* from, uint32_t from_token, std::byte* to, uint32_t to_token) {
  constexpr uint32_t kPack = KvPack(storage);
  constexpr uint32_t kBits = KvCodeBits(storage);
  const uint32_t from_part = from_token % kPack;
  const uint32_t to_part = to_token % kPack;
  for (uint32_t strip = 0; strip < padded_dim; strip += kKvStripDims) {
    const uint32_t rest = padded_dim - strip;
    const uint32_t strip_dims = rest < kKvStripDims ? rest : kKvStripDims;
    const uint32_t strip_begin = strip * kKvSubgroupTokens;
    const uint32_t from_begin = strip_begin + from_token / kPack * strip_dims * kPack;
    const uint32_t to_begin = strip_begin + to_token / kPack * strip_dims * kPack;
    for (uint32_t run = 0; run < strip_dims; run += kLanesPerRun) {
      const uint32_t from_run = from_begin + run * kPack;
      const uint32_t to_run = to_begin + run * kPack;
      for (uint32_t lane = 0; lane < kLanesPerRun; ++lane) {
        const uint32_t source = from_run + KvLaneOffset(storage, lane, from_part);
        const uint32_t target = to_run + KvLaneOffset(storage, lane, to_part);
        if constexpr (kBits == 4) {
          CopyNibble(from + source / 2, source % 2, to + target / 2, target % 2);
        } else {
          std::memcpy(to + target * (kBits / 8), from + source * (kBits / 8), kBits / 8);
        }
      }
    }
  }
}

using CopyFn = void (*)(uint32_t padded_dim, const std::byte* from, uint32_t from_token, std::byte* to,
                        uint32_t to_token);

constexpr CopyFn kCopyK[] = {nullptr,
                             &CopyK<KvStorage::kF32>,
                             &CopyK<KvStorage::kBf16>,
                             &CopyK<KvStorage::kF16>,
                             &CopyK<KvStorage::kInt8>,
                             &CopyK<KvStorage::kInt4>,
                             &CopyK<KvStorage::kFp8E4m3>};
constexpr CopyFn kCopyV[] = {nullptr,
                             &CopyV<KvStorage::kF32>,
                             &CopyV<KvStorage::kBf16>,
                             &CopyV<KvStorage::kF16>,
                             &CopyV<KvStorage::kInt8>,
                             &CopyV<KvStorage::kInt4>,
                             &CopyV<KvStorage::kFp8E4m3>};

void CopyParams(KvStorage storage, uint32_t params_begin, const std::byte* from, uint32_t from_token, std::byte* to,
                uint32_t to_token) {
  const uint32_t bytes = KvParamBytesPerToken(storage);
  std::memcpy(to + params_begin + to_token * bytes, from + params_begin + from_token * bytes, bytes);
}

}  // namespace

void CopyTileToken(const KvTileLayout& layout, const std::byte* from, uint32_t from_token, std::byte* to,
                   uint32_t to_token) {
  const uint32_t from_subgroup = from_token / kKvSubgroupTokens;
  const uint32_t to_subgroup = to_token / kKvSubgroupTokens;
  const uint32_t from_slot = from_token % kKvSubgroupTokens;
  const uint32_t to_slot = to_token % kKvSubgroupTokens;
  kCopyK[static_cast<size_t>(layout.k_storage)](layout.padded_dim, from + from_subgroup * layout.k_subgroup_bytes,
                                                from_slot, to + to_subgroup * layout.k_subgroup_bytes, to_slot);
  kCopyV[static_cast<size_t>(layout.v_storage)](
      layout.padded_dim, from + layout.v_begin + from_subgroup * layout.v_subgroup_bytes, from_slot,
      to + layout.v_begin + to_subgroup * layout.v_subgroup_bytes, to_slot);
  CopyParams(layout.k_storage, layout.k_params_begin, from, from_token, to, to_token);
  CopyParams(layout.v_storage, layout.v_params_begin, from, from_token, to, to_token);
}

}  // namespace tributary
