// Every kernel's packing gives the bytes of the plain one.
#include <gtest/gtest.h>

#include <cstring>

#include "attention/kv/kv_pack.h"
#include "base/aligned_buffer.h"
#include "base/crc32c.h"
#include "cpu_attention_service/kernels/kernels.h"
#include "tests/unit/cpu_attention_service/node/random_inputs.h"

namespace tributary {
namespace {

using testing::TestSeed;

class PackTest : public ::testing::TestWithParam<const CpuKernel*> {
 protected:
  void SetUp() override {
    if (!cpu_kernels::IsSupported(kernel())) GTEST_SKIP() << kernel().name << ": not on this CPU";
  }
  const CpuKernel& kernel() const { return *GetParam(); }

  // Random bits as rows [token][kv_head][head_dim], of exactly their size; tokens go one run after the other.
  void Check(KvStorage k_storage, KvStorage v_storage, uint32_t head_dim, const std::vector<uint32_t>& runs,
             uint64_t token_begin) {
    SCOPED_TRACE(::testing::Message() << static_cast<int>(k_storage) << " " << static_cast<int>(v_storage)
                                      << " head_dim " << head_dim << " from " << token_begin);
    constexpr uint32_t kHeads = 3;
    KvPackArgs args;
    args.layout = MakeKvTileLayout(k_storage, v_storage, head_dim);
    args.k_source = SourceOf(k_storage);
    args.v_source = SourceOf(v_storage);
    args.k_stride_bytes = size_t{kHeads} * head_dim * KvCodeBits(args.k_source) / 8;
    args.v_stride_bytes = size_t{kHeads} * head_dim * KvCodeBits(args.v_source) / 8;
    args.token_begin = token_begin;
    uint64_t end = token_begin;
    for (uint32_t run : runs) end += run;
    const size_t bytes = KvTilesFor(end) * args.layout.record_bytes;
    AlignedBuffer<std::byte> expected(bytes), actual(bytes);
    std::memset(expected.data(), 0x5a, bytes);
    std::memset(actual.data(), 0x5a, bytes);
    for (uint32_t run : runs) {
      const uint32_t head = random_() % kHeads;
      const auto k = Rows(run * args.k_stride_bytes), v = Rows(run * args.v_stride_bytes);
      args.num_tokens = run;
      args.k = k.data() + head * args.k_stride_bytes / kHeads;
      args.v = v.data() + head * args.v_stride_bytes / kHeads;
      std::vector<uint32_t> expected_crcs(KvTilesFor(args.token_begin + run), 0x5a5a), actual_crcs = expected_crcs;
      args.tiles = expected.data();
      args.tile_crcs = expected_crcs.data();
      PackKvPlain(args);
      args.tiles = actual.data();
      args.tile_crcs = actual_crcs.data();
      kernel().pack(args);
      ASSERT_EQ(expected_crcs, actual_crcs);
      CheckCrcs(args, expected_crcs);
      args.token_begin += run;
    }
    for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(expected[i], actual[i]) << "byte " << i;
  }

  // Of the tiles that the call filled, and of no others.
  static void CheckCrcs(const KvPackArgs& args, const std::vector<uint32_t>& crcs) {
    const uint64_t first_tile = args.token_begin / kKvTileTokens;
    const uint64_t end = args.token_begin + args.num_tokens;
    for (uint64_t tile = first_tile; tile < KvTilesFor(end); ++tile) {
      const bool is_filled = tile * kKvTileTokens >= args.token_begin && (tile + 1) * kKvTileTokens <= end;
      const size_t record_bytes = args.layout.record_bytes;
      const auto* record = static_cast<const std::byte*>(args.tiles) + tile * record_bytes;
      ASSERT_EQ(crcs[tile - first_tile], is_filled ? Crc32c({record, record_bytes}) : 0x5a5a) << "tile " << tile;
    }
  }

  // Quantised storages take rows of any float type.
  KvStorage SourceOf(KvStorage storage) {
    return IsFloatKvStorage(storage) ? storage : static_cast<KvStorage>(random_() % 3 + 1);
  }
  // f32 in [-2, 2): values that every quantiser takes, and as 16-bit elements any bits.
  std::vector<std::byte> Rows(size_t bytes) {
    std::vector<std::byte> rows(bytes);
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
      const float value = static_cast<float>(random_() >> 40) * 0x1p-22f - 2.0f;
      std::memcpy(rows.data() + i, &value, 4);
    }
    return rows;
  }

  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
};

TEST_P(PackTest, AnyRunOfTokens) {
  for (uint32_t k = 1; k <= kNumKvStorages; ++k) {
    const auto k_storage = static_cast<KvStorage>(k);
    const auto v_storage = static_cast<KvStorage>(random_() % kNumKvStorages + 1);
    for (KvStorage v : {k_storage, v_storage}) {
      Check(k_storage, v, 64, {64, 130, 1, 15, 16, 17, 63, 64}, 0);
      Check(k_storage, v, 128, {100, 200}, random_() % 70);
    }
  }
}

TEST_P(PackTest, HeadDims) {
  for (uint32_t head_dim : {1u, 8u, 16u, 24u, 31u, 80u, 96u, 112u, 192u, 256u}) {
    for (uint32_t storage = 1; storage <= kNumKvStorages; ++storage) {
      Check(static_cast<KvStorage>(storage), static_cast<KvStorage>(storage), head_dim, {70}, 0);
    }
  }
}

std::vector<const CpuKernel*> AllKernels() {
  std::vector<const CpuKernel*> kernels;
  for (const CpuKernel& kernel : cpu_kernels::All()) kernels.push_back(&kernel);
  return kernels;
}

INSTANTIATE_TEST_SUITE_P(All, PackTest, ::testing::ValuesIn(AllKernels()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace tributary
