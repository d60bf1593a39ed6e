#include "base/ids.h"

#include <sstream>
#include <type_traits>
#include <unordered_set>

#include "absl/container/flat_hash_set.h"
#include "base/aligned_buffer.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

static_assert(!std::is_convertible_v<uint64_t, ShardId>);
static_assert(!std::is_convertible_v<ShardId, SequenceId>);
static_assert(!std::is_convertible_v<ShardId, uint64_t>);

TEST(IdsTest, CompareHashAndPrint) {
  EXPECT_LT(ShardId(1), ShardId(2));
  EXPECT_EQ(ShardId(), ShardId(0));
  const absl::flat_hash_set<ShardId> flat = {ShardId(1), ShardId(2), ShardId(1)};
  EXPECT_EQ(flat.size(), 2u);
  const std::unordered_set<ShardId> standard = {ShardId(1), ShardId(2), ShardId(1)};
  EXPECT_EQ(standard.size(), 2u);
  std::ostringstream text;
  text << ShardId(17);
  EXPECT_EQ(text.str(), "17");
}

TEST(AlignedBufferTest, AlignedZeroedAndMovable) {
  AlignedBuffer<float> buffer(33);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
  for (float value : buffer.span()) EXPECT_EQ(value, 0.0f);
  buffer[32] = 5.0f;
  const AlignedBuffer<float> moved = std::move(buffer);
  EXPECT_EQ(moved.size(), 33u);
  EXPECT_EQ(moved[32], 5.0f);
  EXPECT_TRUE(AlignedBuffer<int>().empty());
  EXPECT_TRUE(AlignedBuffer<int>(0).empty());
}

}  // namespace
}  // namespace tributary
