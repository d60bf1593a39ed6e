#include "gpu_worker/device/resident_regions.h"

#include "gtest/gtest.h"

namespace tributary {
namespace {

constexpr AttentionShape kShape{4, 2, 8};
constexpr uint32_t kLayers = 3;
constexpr uint64_t kTokenBytes = 2 * kLayers * 2 * 8 * 4;  // f32

uint64_t BytesOf(const ResidentRegions& regions, std::string_view kind) {
  for (const PolicyBytes& bytes : regions.memory().policy_bytes) {
    if (bytes.kind == kind) return bytes.bytes;
  }
  return UINT64_MAX;
}

TEST(ResidentRegionsTest, PartsLieBehindTheKvAndAreAccountedByKind) {
  ResidentRegions regions(kShape, kLayers, 1 << 20);
  EXPECT_TRUE(regions.memory().policy_bytes.empty());
  const ResidentId plain = *regions.Reserve(10, DType::kF32);
  EXPECT_TRUE(regions.parts(plain).empty());
  const PolicyBytes of_a[] = {{"x", 100}, {"y", 64}};
  const ResidentId a = *regions.Reserve(10, DType::kF32, of_a);
  ASSERT_EQ(regions.parts(a).size(), 2u);
  const uint64_t begin = regions.SlotsOffset(a, 0, ResidentRegions::Kind::kKey, 0);
  EXPECT_EQ(regions.parts(a)[0].offset, begin + 10 * kTokenBytes);
  EXPECT_EQ(regions.parts(a)[0].bytes, 100u);
  EXPECT_EQ(regions.parts(a)[1].offset, begin + 10 * kTokenBytes + 128) << "parts are aligned";
  EXPECT_EQ(regions.memory().resident_used_bytes, 20 * kTokenBytes + 128 + 64);

  const PolicyBytes of_b[] = {{"y", 1}, {"x", 5}, {"z", 0}};
  const ResidentId b = *regions.Reserve(10, DType::kF32, of_b);
  EXPECT_EQ(BytesOf(regions, "x"), 105u);
  EXPECT_EQ(BytesOf(regions, "y"), 65u);
  EXPECT_EQ(BytesOf(regions, "z"), 0u);
  regions.Release(a);
  EXPECT_EQ(BytesOf(regions, "x"), 5u);
  EXPECT_EQ(BytesOf(regions, "y"), 1u);
  regions.Release(b);
  regions.Release(plain);
  EXPECT_EQ(BytesOf(regions, "x"), 0u);
  EXPECT_EQ(regions.memory().policy_bytes.size(), 3u) << "a kind keeps its place";
  EXPECT_EQ(regions.memory().resident_used_bytes, 0u);
}

TEST(ResidentRegionsTest, PartsCountTowardsWhatIsNeeded) {
  ResidentRegions regions(kShape, kLayers, 10 * kTokenBytes + 64);
  const PolicyBytes parts[] = {{"x", 65}};
  EXPECT_TRUE(absl::IsResourceExhausted(regions.Reserve(10, DType::kF32, parts).status()));
  EXPECT_EQ(regions.memory().resident_used_bytes, 0u);
  EXPECT_TRUE(regions.memory().policy_bytes.empty());
}

}  // namespace
}  // namespace tributary
