#include "benchmarks/cpu/kv_region.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <utility>

#include "attention/kv/kv_pack.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr std::array<std::pair<KvStorage, std::string_view>, kNumKvStorages> kNames = {{
    {KvStorage::kF32, "f32"},
    {KvStorage::kBf16, "bf16"},
    {KvStorage::kF16, "f16"},
    {KvStorage::kInt8, "int8"},
    {KvStorage::kInt4, "int4"},
    {KvStorage::kFp8E4m3, "fp8-e4m3"},
}};
constexpr uint32_t kPatternTiles = 16;

}  // namespace

std::string_view KvStorageName(KvStorage storage) {
  for (const auto& [value, name] : kNames) {
    if (value == storage) return name;
  }
  return "unset";
}

absl::StatusOr<KvStorage> ParseKvStorage(std::string_view name) {
  if (name == "fp8") return KvStorage::kFp8E4m3;
  std::string names;
  for (const auto& [value, known] : kNames) {
    if (name == known) return value;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", known);
  }
  return absl::InvalidArgumentError(fmt::format("unknown dtype '{}'; use one of: {}", name, names));
}

std::vector<std::byte> RandomTiles(const KvTileLayout& layout, uint32_t num_tiles, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  const uint32_t tokens = num_tiles * kKvTileTokens;
  // Rows that every source type can be read as: for a 16-bit storage random bits of a sign, an exponent near that of 1,
  // and a mantissa; for the others f32.
  const auto rows = [&](KvStorage storage) {
    std::vector<std::byte> bytes(size_t{tokens} * layout.head_dim * KvCodeBits(KvStorage::kF32) / 8);
    for (size_t i = 0; i < size_t{tokens} * layout.head_dim; ++i) {
      if (storage == KvStorage::kBf16 || storage == KvStorage::kF16) {
        const uint16_t one = storage == KvStorage::kBf16 ? 0x3f00 : 0x3800;
        const auto bits = static_cast<uint16_t>((random() & 0x80ff) | one);
        std::memcpy(bytes.data() + i * sizeof(bits), &bits, sizeof(bits));
      } else {
        const float value = normal(random);
        std::memcpy(bytes.data() + i * sizeof(value), &value, sizeof(value));
      }
    }
    return bytes;
  };
  const auto source = [](KvStorage storage) { return IsFloatKvStorage(storage) ? storage : KvStorage::kF32; };
  KvPackArgs args;
  args.layout = layout;
  args.k_source = source(layout.k_storage);
  args.v_source = source(layout.v_storage);
  const std::vector<std::byte> k = rows(layout.k_storage);
  const std::vector<std::byte> v = rows(layout.v_storage);
  args.k = k.data();
  args.v = v.data();
  args.k_stride_bytes = size_t{layout.head_dim} * KvCodeBits(args.k_source) / 8;
  args.v_stride_bytes = size_t{layout.head_dim} * KvCodeBits(args.v_source) / 8;
  args.num_tokens = tokens;
  std::vector<std::byte> tiles(size_t{num_tiles} * layout.record_bytes + kKvTileAlignBytes);
  std::vector<std::byte> result(size_t{num_tiles} * layout.record_bytes);
  void* aligned = tiles.data();
  size_t space = tiles.size();
  args.tiles = std::align(kKvTileAlignBytes, result.size(), aligned, space);
  PackKvPlain(args);
  std::memcpy(result.data(), args.tiles, result.size());
  return result;
}

absl::StatusOr<KvRegion> KvRegion::Create(SlicePool& pool, std::span<std::byte> memory, const KvTileLayout& layout,
                                          uint64_t kv_len, bool is_filled) {
  KvRegion region;
  region.layout_ = layout;
  region.kv_len_ = kv_len;
  region.num_threads_ = pool.num_threads();
  region.memory_ = memory;
  const size_t num_threads = static_cast<size_t>(pool.num_threads());
  const size_t stagger_bytes = std::min(num_threads * region.stagger_bytes(), memory.size());
  region.num_streams_ = (memory.size() - stagger_bytes) / region.stream_bytes() / num_threads * num_threads;
  if (region.num_streams_ == 0) {
    return absl::ResourceExhaustedError(
        fmt::format("{} bytes of working set, but a stream of {} tokens takes {} bytes and {} "
                    "threads want one each; raise "
                    "--working-set-mib",
                    memory.size(), kv_len, region.stream_bytes(), num_threads));
  }
  if (is_filled) return region;
  const std::vector<std::byte> pattern = RandomTiles(layout, kPatternTiles, 1);
  const size_t tiles = memory.size() / layout.record_bytes;
  pool.Run([&](int t) {
    const size_t begin = tiles * static_cast<size_t>(t) / num_threads;
    const size_t end = tiles * (static_cast<size_t>(t) + 1) / num_threads;
    for (size_t tile = begin; tile < end; ++tile) {
      std::memcpy(memory.data() + tile * layout.record_bytes,
                  pattern.data() + tile % kPatternTiles * layout.record_bytes, layout.record_bytes);
    }
  });
  return region;
}

}  // namespace tributary
