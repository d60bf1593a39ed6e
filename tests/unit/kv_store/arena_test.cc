#include "kv_store/arena.h"

#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

constexpr size_t kBytes = (4u << 20) + 12345;

TEST(ArenaTest, AlignedZeroedWritable) {
  for (bool try_hugetlb : {false, true}) {
    for (bool prefault : {false, true}) {
      absl::StatusOr<Arena> arena = Arena::Create({.bytes = kBytes, .try_hugetlb = try_hugetlb, .prefault = prefault});
      ASSERT_TRUE(arena.ok()) << arena.status();
      EXPECT_EQ(arena->memory().size(), kBytes);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(arena->memory().data()) % kArenaAlignmentBytes, 0u);
      EXPECT_EQ(arena->memory().front(), std::byte{0});
      EXPECT_EQ(arena->memory().back(), std::byte{0});
      arena->memory().back() = std::byte{1};
      EXPECT_NE(PageKindName(arena->page_kind()), "unknown");
      EXPECT_TRUE(try_hugetlb || arena->page_kind() != PageKind::kHugeTlb);
    }
  }
}

TEST(ArenaTest, SmallPagesAndNodesOnRequest) {
  const absl::StatusOr<Arena> arena =
      Arena::Create({.bytes = kBytes, .transparent_huge = false, .prefault = true, .numa_node = 0});
  ASSERT_TRUE(arena.ok()) << arena.status();
  EXPECT_EQ(arena->page_kind(), PageKind::kSmall);
  EXPECT_TRUE(arena->bound_to_node() == 0 || arena->bound_to_node() == -1);
  EXPECT_EQ(Arena::Create({.bytes = kBytes})->bound_to_node(), -1);
  const absl::Status no_such_node = Arena::Create({.bytes = kBytes, .numa_node = 999}).status();
  EXPECT_EQ(no_such_node.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(no_such_node.message()), testing::HasSubstr("999"));
}

TEST(ArenaTest, MovesItsMapping) {
  Arena first = *Arena::Create({.bytes = kBytes});
  first.memory()[7] = std::byte{42};
  Arena second = std::move(first);
  EXPECT_EQ(second.memory()[7], std::byte{42});
  Arena third = *Arena::Create({.bytes = 4096});
  third = std::move(second);
  EXPECT_EQ(third.memory()[7], std::byte{42});
}

TEST(ArenaTest, RefusesNothingAndTooMuch) {
  EXPECT_EQ(Arena::Create({.bytes = 0}).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_GT(AvailableMemoryBytes(), 0u);
  for (size_t bytes : {size_t{1} << 50, SIZE_MAX}) {
    const absl::Status status = Arena::Create({.bytes = bytes}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(std::to_string(bytes) + " bytes needed"));
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("available"));
  }
}

}  // namespace
}  // namespace tributary
