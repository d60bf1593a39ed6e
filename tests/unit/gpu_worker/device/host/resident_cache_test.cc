#include "gpu_worker/device/host/resident_cache.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr AttentionShape kShape{4, 2, 8};
constexpr uint32_t kLayers = 3;
constexpr uint64_t kTokenBytes = 2 * kLayers * 2 * 8 * 4;  // f32

TEST(ResidentCacheTest, AccountsForEveryByteAndJoinsFreePieces) {
  ResidentCache cache(kShape, kLayers, 100 * kTokenBytes);
  const ResidentId a = *cache.Reserve({40, DType::kF32});
  const ResidentId b = *cache.Reserve({40, DType::kBf16});
  const ResidentId c = *cache.Reserve({40, DType::kF32});
  EXPECT_EQ(cache.memory().resident_used_bytes, 100 * kTokenBytes);
  const absl::Status full = cache.Reserve({1, DType::kF32}).status();
  EXPECT_TRUE(absl::IsResourceExhausted(full));
  EXPECT_THAT(std::string(full.message()), AllOf(HasSubstr("needs 384 bytes"), HasSubstr("0 of 38400 bytes are free")));
  cache.Release(a);
  cache.Release(c);
  EXPECT_THAT(std::string(cache.Reserve({60, DType::kF32}).status().message()), HasSubstr("largest piece 15360"));
  cache.Release(b);
  EXPECT_EQ(cache.memory().resident_used_bytes, 0u);
  const absl::StatusOr<ResidentId> whole = cache.Reserve({100, DType::kF32});
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(cache.capacity_tokens(*whole), 100u);
}

TEST(ResidentCacheTest, RefusesNonsense) {
  ResidentCache cache(kShape, kLayers, 0);
  EXPECT_TRUE(absl::IsInvalidArgument(cache.Reserve({0, DType::kF32}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(cache.Reserve({1, DType::kUnset}).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(cache.Reserve({1, DType::kF32}).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(cache.Reserve({0xffffffff, DType::kF32}).status()));
}

TEST(ResidentCacheTest, WritesAndReadsTheCanonicalLayout) {
  ResidentCache cache(kShape, kLayers, 100 * kTokenBytes);
  const ResidentId id = *cache.Reserve({10, DType::kF32});
  std::vector<float> canonical(3 * 2 * 8);
  for (size_t i = 0; i < canonical.size(); ++i) canonical[i] = static_cast<float>(i);
  cache.Write(id, 1, ResidentCache::Kind::kValue, {4, 7}, std::as_bytes(std::span(canonical)));
  const auto* head1 = reinterpret_cast<const float*>(cache.Slots(id, 1, ResidentCache::Kind::kValue, 1));
  EXPECT_EQ(head1[4 * 8], 8.0f);       // token 0, KV head 1
  EXPECT_EQ(head1[6 * 8 + 7], 47.0f);  // token 2, KV head 1, last element
  std::vector<float> back(2 * 2 * 8);
  cache.Read(id, 1, ResidentCache::Kind::kValue, {5, 7}, {0, 2}, std::as_writable_bytes(std::span(back)));
  EXPECT_EQ(back, std::vector<float>(canonical.begin() + 16, canonical.end()));
}

}  // namespace
}  // namespace tributary
