#include "attention/token_range.h"

#include <vector>

#include "base/limits.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

// Deals the tokens out one by one, as the header says.
std::vector<uint32_t> DealtOwners(const TokenStripe& stripe, uint64_t end) {
  std::vector<uint32_t> owners;
  uint32_t owner = 0;
  uint64_t in_run = 0;
  for (uint64_t pos = stripe.origin; pos < end; ++pos) {
    owners.push_back(owner);
    if (++in_run == stripe.stripe_tokens) {
      in_run = 0;
      owner = (owner + 1) % stripe.num_stripes;
    }
  }
  return owners;
}

TEST(TokenStripeTest, AgreesWithDealingTokenByToken) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    TokenStripe stripe;
    stripe.origin = RandomInt<uint64_t>(random, 0, 40);
    stripe.stripe_tokens = RandomInt<uint64_t>(random, 1, 20);
    stripe.num_stripes = RandomInt(random, 1u, 5u);
    const uint64_t end = stripe.origin + RandomInt<uint64_t>(random, 0, 200);
    const std::vector<uint32_t> owners = DealtOwners(stripe, end);
    for (stripe.stripe_idx = 0; stripe.stripe_idx < stripe.num_stripes; ++stripe.stripe_idx) {
      ASSERT_TRUE(Validate(stripe).ok());
      uint64_t count = 0;
      for (uint64_t pos = 0; pos < end; ++pos) {
        ASSERT_EQ(stripe.LocalIndex(pos), count);
        const bool owned = pos >= stripe.origin && owners[pos - stripe.origin] == stripe.stripe_idx;
        ASSERT_EQ(stripe.Owns(pos), owned);
        count += owned ? 1 : 0;
      }
      const TokenRange range{RandomInt<uint64_t>(random, 0, end), RandomInt<uint64_t>(random, 0, end)};
      uint64_t in_range = 0;
      for (uint64_t pos = range.begin; pos < range.end; ++pos) in_range += stripe.Owns(pos) ? 1 : 0;
      ASSERT_EQ(stripe.CountIn(range), in_range);
    }
    if (end == stripe.origin) continue;
    const uint64_t pos = RandomInt<uint64_t>(random, stripe.origin, end - 1);
    ASSERT_EQ(stripe.OwnerOf(pos), owners[pos - stripe.origin]);
    uint64_t run_end = pos + 1;
    while (run_end < end && owners[run_end - stripe.origin] == owners[pos - stripe.origin]) ++run_end;
    ASSERT_EQ(stripe.RunAt(pos, end), (TokenRange{pos, run_end}));
    ASSERT_TRUE(stripe.RunAt(pos, pos).empty());
  }
}

TEST(TokenStripeTest, CountsOfAllStripesAddUp) {
  TokenStripe stripe{.origin = 7, .stripe_tokens = 16, .num_stripes = 3};
  uint64_t total = 0;
  for (stripe.stripe_idx = 0; stripe.stripe_idx < 3; ++stripe.stripe_idx) {
    total += stripe.CountIn({0, limits::kMaxContextTokens});
  }
  EXPECT_EQ(total, limits::kMaxContextTokens - 7);
}

TEST(TokenStripeTest, ValidateNamesTheBadValue) {
  const TokenStripe good{.origin = 64, .stripe_tokens = 16, .num_stripes = 4, .stripe_idx = 3};
  EXPECT_TRUE(Validate(good).ok());
  struct Case {
    TokenStripe stripe;
    const char* text;
  };
  TokenStripe no_tokens = good, huge_tokens = good, no_stripes = good, many = good, idx = good, origin = good;
  no_tokens.stripe_tokens = 0;
  huge_tokens.stripe_tokens = limits::kMaxContextTokens + 1;
  no_stripes.num_stripes = 0;
  many.num_stripes = limits::kMaxTokenStripes + 1;
  idx.stripe_idx = 4;
  origin.origin = limits::kMaxContextTokens + 1;
  for (const Case& c : {Case{no_tokens, "stripe_tokens is 0"}, Case{huge_tokens, "stripe_tokens is 2147483649"},
                        Case{no_stripes, "num_stripes is 0"}, Case{many, "num_stripes is 65"},
                        Case{idx, "stripe_idx 4"}, Case{origin, "origin 2147483649"}}) {
    const absl::Status status = Validate(c.stripe);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find(c.text), std::string::npos) << status;
  }
}

TEST(TokenRangeTest, SetOperations) {
  EXPECT_EQ(Intersect({0, 10}, {5, 20}), (TokenRange{5, 10}));
  EXPECT_EQ(Intersect({0, 5}, {5, 20}), TokenRange{});
  EXPECT_EQ((TokenRange{7, 3}.size()), 0u);
  EXPECT_TRUE((TokenRange{0, 10}.Contains({3, 10})));
  EXPECT_FALSE((TokenRange{0, 10}.Contains({3, 11})));
}

}  // namespace
}  // namespace tributary
