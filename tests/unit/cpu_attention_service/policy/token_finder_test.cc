#include "cpu_attention_service/policy/token_finder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

#include "attention/kv/hadamard.h"
#include "base/aligned_buffer.h"
#include "kv_store/block_pool.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr uint32_t kHeadDim = 64, kRows = 3;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class TokenFinderTest : public testing::Test {
 protected:
  // A query that is far from most keys, and near to some.
  void Open(
      uint64_t tokens, const std::function<float(uint64_t token)>& size = [](uint64_t) { return 1.0f; }) {
    std::normal_distribution<float> normal;
    codes_.reset();
    keys_.resize(tokens * kHeadDim);
    for (size_t i = 0; i < keys_.size(); ++i) keys_[i] = normal(random_) * size(i / kHeadDim);
    q_.resize(kRows * kHeadDim);
    for (float& value : q_) value = normal(random_);
    codes_.emplace(*KeyCodes::Open({2}, {kHeadDim, 1, tokens}, &pool_));
    for (uint64_t token = 0; token + 64 <= tokens; token += 64) codes_->Add(0, keys_.data() + token * kHeadDim);
  }
  TokenScan Scan(TokenRange local, uint32_t max_tokens, float reach_nats) const {
    return {.codes = &*codes_,
            .stream = 0,
            .local = local,
            .q = q_,
            .num_rows = kRows,
            .softmax_scale = 0.125f,
            .max_tokens = max_tokens,
            .reach_nats = reach_nats};
  }
  std::vector<std::vector<uint32_t>> Find(const TokenScan& scan) const {
    std::vector<std::vector<uint32_t>> found(scan.num_rows);
    FindTokens(block_selection::Best(), scan, found);
    return found;
  }
  // Every token's coarse score.
  std::vector<float> AllScores(uint32_t row) const {
    const uint64_t tokens = codes_->num_tokens(0);
    std::vector<float> q(q_.begin() + row * kHeadDim, q_.begin() + (row + 1) * kHeadDim);
    HadamardRotate(q.data(), kHeadDim);
    std::vector<uint32_t> ids(tokens + kSelectSlack);
    std::vector<float> scores(tokens + kSelectSlack);
    FoundKeys found{ids.data(), scores.data(), 0};
    const float least = -kInfinity;
    for (uint64_t begin = 0; begin < tokens;) {
      const KeyCodes::Run run = codes_->RunAt(0, begin, tokens);
      ScoreKeysArgs args;
      args.layout = codes_->layout();
      args.records = run.records;
      args.num_tokens = static_cast<uint32_t>(run.num_tokens);
      args.q = q.data();
      args.group_size = 1;
      args.softmax_scale = 0.125f;
      args.least = &least;
      args.found = &found;
      block_selection::Best().fns.score_keys(args);
      begin += run.num_tokens;
    }
    return scores;
  }
  // That each row finds what sorting all of its scores finds.
  void ExpectBest(TokenRange local, uint32_t max_tokens, float reach_nats) const {
    const std::vector<std::vector<uint32_t>> found = Find(Scan(local, max_tokens, reach_nats));
    for (uint32_t row = 0; row < kRows; ++row) {
      const std::vector<float> scores = AllScores(row);
      std::vector<uint32_t> order(local.size());
      std::iota(order.begin(), order.end(), static_cast<uint32_t>(local.begin));
      std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
      const float highest = scores[order.front()];
      order.resize(std::min<size_t>(order.size(), max_tokens));
      std::erase_if(order, [&](uint32_t token) { return scores[token] < highest - reach_nats; });
      std::sort(order.begin(), order.end());
      ASSERT_EQ(found[row], order) << "row " << row;
    }
  }

  const uint64_t seed_ = TestSeed();
  testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
  AlignedBuffer<std::byte> memory_{16 << 20};
  BlockPool pool_{memory_.span(), 64 << 10};
  std::optional<KeyCodes> codes_;
  std::vector<float> keys_;
  std::vector<float> q_;
};

// Against sorting all of them: the same tokens over several steps of the scan, ragged ranges, few and many tokens.
TEST_F(TokenFinderTest, FindsWhatSortingFinds) {
  Open(40'000);
  for (int round = 0; round < 30; ++round) {
    const uint64_t begin = RandomInt<uint64_t>(random_, 0, 1) * RandomInt<uint64_t>(random_, 0, 5000);
    const TokenRange local{begin, (begin + RandomInt<uint64_t>(random_, 64, 34'000)) / 64 * 64};
    const uint32_t max_tokens = std::vector{1u, 17u, 400u, 5000u, 40'000u}[RandomInt(random_, 0, 4)];
    const float reach_nats = std::vector{0.5f, 2.0f, kInfinity}[RandomInt(random_, 0, 2)];
    SCOPED_TRACE(::testing::Message() << "[" << local.begin << ", " << local.end << ") max " << max_tokens << " delta "
                                      << reach_nats);
    ExpectBest(local, max_tokens, reach_nats);
  }
}

TEST_F(TokenFinderTest, AFloorTakesNothingThatIsTooFarBelowIt) {
  for (const uint64_t tokens : {2000, 30'000}) {
    Open(tokens);
    const TokenRange local{0, tokens / 64 * 64};
    const std::vector<std::vector<uint32_t>> all = Find(Scan(local, 100, 3));
    std::vector<float> floor_ln(kRows, -kInfinity);
    for (uint32_t row = 1; row < kRows; ++row) {
      const std::vector<float> scores = AllScores(row);
      floor_ln[row] = *std::max_element(scores.begin(), scores.begin() + local.end) + (row == 1 ? 2.5f : 3.5f);
    }
    TokenScan scan = Scan(local, 100, 3);
    scan.floor_ln = floor_ln;
    const std::vector<std::vector<uint32_t>> found = Find(scan);
    EXPECT_EQ(found[0], all[0]);
    EXPECT_LT(found[1].size(), all[1].size());
    EXPECT_GE(found[1].size(), 1u);
    EXPECT_TRUE(found[2].empty());
  }
}

TEST_F(TokenFinderTest, AQueryThatIsNotANumberFindsTheFirst) {
  Open(20'000);
  q_[5] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::vector<uint32_t>> found = Find(Scan({70, 19'968}, 10, 8));
  std::vector<uint32_t> first(10);
  std::iota(first.begin(), first.end(), 70u);
  EXPECT_EQ(found[0], first);
  EXPECT_EQ(found[1].size(), 10u);
}

// A sample of the records sees one kind of key, and what is wanted is all of the other: the second scan finds it.
TEST_F(TokenFinderTest, ASampleThatMisleadsCostsTimeAlone) {
  for (const bool sampled_are_high : {false, true}) {
    Open(40'000, [&](uint64_t token) { return (token / 64 % 19 == 0) == sampled_are_high ? 3.0f : 0.1f; });
    ExpectBest({0, 39'936}, 1500, kInfinity);
    ExpectBest({64, 39'936}, 1500, kInfinity);
  }
}

// One key that is not finite scores NaN, and then nothing is too far below the highest.
TEST_F(TokenFinderTest, AKeyThatIsNotFiniteIsFound) {
  Open(20'000, [](uint64_t token) { return token == 12'345 ? kInfinity : 1.0f; });
  const std::vector<std::vector<uint32_t>> found = Find(Scan({0, 19'968}, 10, 0.5f));
  for (const std::vector<uint32_t>& of_row : found) {
    EXPECT_EQ(of_row.size(), 10u);
    EXPECT_EQ(std::count(of_row.begin(), of_row.end(), 12'345u), 1);
  }
}

// Parts on other threads, in any order.
TEST_F(TokenFinderTest, PartsAreIndependent) {
  Open(60'000);
  const TokenScan scan = Scan({100, 59'968}, 300, 8);
  const uint32_t num_parts = TokenFinder::NumParts(scan.local);
  ASSERT_EQ(num_parts, 4u);
  TokenFinder finder;
  std::vector<std::vector<uint32_t>> found(kRows);
  finder.Begin(block_selection::Best(), scan);
  std::vector<std::thread> threads;
  for (uint32_t part = num_parts; part-- > 0;) threads.emplace_back([&finder, part] { finder.ScanPart(part); });
  for (std::thread& thread : threads) thread.join();
  finder.Finish(found);
  EXPECT_EQ(found, Find(scan));
}

TEST_F(TokenFinderTest, NothingToFind) {
  Open(100);
  for (const std::vector<uint32_t>& found : Find(Scan({10, 10}, 10, 8))) EXPECT_TRUE(found.empty());
  for (const std::vector<uint32_t>& found : Find(Scan({0, 64}, 0, 8))) EXPECT_TRUE(found.empty());
}

}  // namespace
}  // namespace tributary
