#include "gpu_worker/sequence/window_cache.h"

#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

// What the cache claims, checked against a plain array of slots that remembers who was written
// where.
class SlotOracle {
 public:
  explicit SlotOracle(uint32_t capacity) : token_in_slot_(capacity, -1) {}

  void Write(uint32_t slot, uint64_t token) { token_in_slot_.at(slot) = static_cast<int64_t>(token); }

  std::vector<int64_t> Read(std::span<const SlotRange> ranges) const {
    std::vector<int64_t> tokens;
    for (const SlotRange& range : ranges) {
      for (uint32_t slot = range.begin; slot < range.end; ++slot) tokens.push_back(token_in_slot_.at(slot));
    }
    return tokens;
  }

 private:
  std::vector<int64_t> token_in_slot_;
};

std::vector<int64_t> ResidentTokens(uint64_t sink, uint64_t remote_end, uint64_t context) {
  std::vector<int64_t> tokens;
  for (uint64_t t = 0; t < std::min(sink, context); ++t) tokens.push_back(static_cast<int64_t>(t));
  for (uint64_t t = std::max(sink, remote_end); t < context; ++t) tokens.push_back(static_cast<int64_t>(t));
  return tokens;
}

TEST(WindowCacheTest, EveryResidentTokenIsReadOnceAndInOrder) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE("TRIBUTARY_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 rng(seed);
  for (int round = 0; round < 300; ++round) {
    WindowLayout layout;
    layout.block_tokens = 1 + rng() % 9;
    layout.window_tokens = layout.block_tokens + rng() % 30;
    layout.sink_tokens = rng() % 20;
    layout.all_resident = rng() % 8 == 0;
    ASSERT_TRUE(Validate(layout).ok());
    const uint64_t prompt = 1 + rng() % 150;
    const uint64_t max_context = prompt + rng() % 150;
    WindowCache cache(layout, max_context);
    SlotOracle oracle(cache.capacity_tokens());

    cache.Prefilled(prompt);
    const uint64_t sink = layout.all_resident ? 0 : std::min<uint64_t>(layout.sink_tokens, max_context);
    for (TokenRange part : {TokenRange{0, std::min(sink, prompt)}, TokenRange{cache.remote().end, prompt}}) {
      uint64_t token = part.begin;
      for (SlotRange slots : cache.SlotsOf(part)) {
        for (uint32_t slot = slots.begin; slot < slots.end; ++slot) oracle.Write(slot, token++);
      }
      ASSERT_EQ(token, std::max(part.end, part.begin));
    }
    while (true) {
      const uint64_t context = cache.context_tokens();
      const uint64_t remote_end = cache.remote().end;
      ASSERT_EQ(oracle.Read(cache.AttendRanges()), ResidentTokens(sink, remote_end, context));
      const uint32_t newest = layout.all_resident ? 1 + rng() % 400 : 1 + rng() % layout.window_tokens;
      std::vector<int64_t> tokens(std::min<uint64_t>(newest, context));
      std::iota(tokens.begin(), tokens.end(), static_cast<int64_t>(context - tokens.size()));
      ASSERT_EQ(oracle.Read(cache.NewestRanges(newest)), tokens);
      if (!cache.remote().empty()) {
        ASSERT_GE(context - remote_end, layout.window_tokens);
        ASSERT_EQ((remote_end - sink) % layout.block_tokens, 0u);
      }
      if (auto block = cache.next_spill()) {
        std::vector<int64_t> expected;
        for (uint64_t t = block->begin; t < block->end; ++t) expected.push_back(static_cast<int64_t>(t));
        ASSERT_EQ(oracle.Read(cache.SlotsOf(*block)), expected);
        ASSERT_EQ(block->size(), layout.block_tokens);
      }
      if (context == max_context) break;
      if (!cache.CanAppend()) {
        cache.Release();
        ASSERT_EQ(cache.append_room(), layout.block_tokens);
      }
      const uint64_t room = cache.append_room();
      const TokenRange remote = cache.remote();
      oracle.Write(cache.Append(), context);
      ASSERT_EQ(cache.append_room(), room - 1);
      ASSERT_EQ(cache.remote(), remote);
    }
  }
}

TEST(WindowCacheTest, PromptUpToSinkPlusWindowPlusBlockStaysResident) {
  const WindowLayout layout{.sink_tokens = 4, .window_tokens = 32, .block_tokens = 16};
  EXPECT_EQ(layout.RemoteEnd(52), 4u);
  EXPECT_EQ(layout.RemoteEnd(53), 20u);
  EXPECT_EQ(layout.RemoteEnd(4 + 32 + 160), 164u);
}

TEST(WindowCacheTest, BlockIsOfferedOneBlockBeforeItMustLeave) {
  const WindowLayout layout{.sink_tokens = 2, .window_tokens = 8, .block_tokens = 4};
  WindowCache cache(layout, 1000);
  EXPECT_EQ(cache.capacity_tokens(), 18u);
  cache.Prefilled(2 + 8 + 3);
  EXPECT_FALSE(cache.next_spill().has_value());
  cache.Append();
  EXPECT_EQ(cache.next_spill(), (TokenRange{2, 6}));
  for (int i = 0; i < 4; ++i) cache.Append();
  EXPECT_FALSE(cache.CanAppend());
  cache.Release();
  EXPECT_TRUE(cache.CanAppend());
  EXPECT_EQ(cache.remote(), (TokenRange{2, 6}));
}

TEST(WindowCacheTest, NothingSpillsWhenTheContextEndsFirst) {
  const WindowLayout layout{.sink_tokens = 2, .window_tokens = 8, .block_tokens = 4};
  WindowCache cache(layout, 18);
  cache.Prefilled(14);
  EXPECT_FALSE(cache.next_spill().has_value());
  while (cache.context_tokens() < 18) cache.Append();
  EXPECT_EQ(cache.resident_tokens(), 18u);
}

TEST(WindowCacheTest, LayoutErrorsNameTheValues) {
  const absl::Status small = Validate(WindowLayout{.sink_tokens = 0, .window_tokens = 8, .block_tokens = 16});
  EXPECT_EQ(small.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(small.message().find("window_tokens 8"), std::string::npos);
  EXPECT_FALSE(Validate(WindowLayout{.window_tokens = 8, .block_tokens = 0}).ok());
  EXPECT_TRUE(Validate(WindowLayout{.all_resident = true}).ok());
}

}  // namespace
}  // namespace tributary
