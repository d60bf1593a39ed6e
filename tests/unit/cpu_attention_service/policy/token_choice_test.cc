#include "cpu_attention_service/policy/token_choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "attention/kv/hadamard.h"
#include "base/aligned_buffer.h"
#include "kv_store/block_pool.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr uint32_t kHeadDim = 64, kRows = 3;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class TokenChoiceTest : public testing::Test {
 protected:
  // A query that is far from most keys, and near to some.
  void Open(uint64_t tokens) {
    std::normal_distribution<float> normal;
    keys_.resize(tokens * kHeadDim);
    for (float& key : keys_) key = normal(random_);
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
  std::vector<FoundTokens> Find(const TokenScan& scan) const {
    std::vector<FoundTokens> found(scan.num_rows);
    FindTokens(block_selection::Best(), scan, found);
    return found;
  }
  // Every token's coarse score.
  std::vector<float> AllScores(uint32_t row) const {
    const uint64_t tokens = codes_->num_tokens(0);
    std::vector<float> q(q_.begin() + row * kHeadDim, q_.begin() + (row + 1) * kHeadDim), scores(tokens);
    HadamardRotate(q.data(), kHeadDim);
    for (uint64_t begin = 0; begin < tokens;) {
      const KeyCodes::Run run = codes_->RunAt(0, begin, tokens);
      ScoreKeysArgs args;
      args.layout = codes_->layout();
      args.records = run.records;
      args.num_tokens = static_cast<uint32_t>(run.num_tokens);
      args.q = q.data();
      args.group_size = 1;
      args.softmax_scale = 0.125f;
      args.scores = scores.data() + begin;
      args.score_stride = static_cast<uint32_t>(tokens);
      block_selection::Best().fns.score_keys(args);
      begin += run.num_tokens;
    }
    return scores;
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
TEST_F(TokenChoiceTest, FindsWhatSortingFinds) {
  Open(40'000);
  for (int round = 0; round < 30; ++round) {
    const uint64_t begin = RandomInt<uint64_t>(random_, 0, 1) * RandomInt<uint64_t>(random_, 0, 5000);
    const TokenRange local{begin, (begin + RandomInt<uint64_t>(random_, 64, 34'000)) / 64 * 64};
    const uint32_t max_tokens = std::vector{1u, 17u, 400u, 5000u, 40'000u}[RandomInt(random_, 0, 4)];
    const float reach_nats = std::vector{0.5f, 2.0f, kInfinity}[RandomInt(random_, 0, 2)];
    SCOPED_TRACE(::testing::Message() << "[" << local.begin << ", " << local.end << ") max " << max_tokens << " delta "
                                      << reach_nats);
    const std::vector<FoundTokens> found = Find(Scan(local, max_tokens, reach_nats));
    for (uint32_t row = 0; row < kRows; ++row) {
      const std::vector<float> scores = AllScores(row);
      std::vector<uint32_t> order(local.size());
      std::iota(order.begin(), order.end(), static_cast<uint32_t>(local.begin));
      std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
      const float highest = scores[order.front()];
      EXPECT_EQ(found[row].max_ln, highest);
      order.resize(std::min<size_t>(order.size(), max_tokens));
      std::erase_if(order, [&](uint32_t token) { return scores[token] < highest - reach_nats; });
      std::sort(order.begin(), order.end());
      ASSERT_EQ(found[row].tokens, order) << "row " << row;
    }
  }
}

TEST_F(TokenChoiceTest, AFloorTakesNothingThatIsTooFarBelowIt) {
  Open(2000);
  const std::vector<FoundTokens> all = Find(Scan({0, 1984}, 100, 3));
  TokenScan scan = Scan({0, 1984}, 100, 3);
  const std::vector<float> floor_ln = {-kInfinity, all[1].max_ln + 2.5f, all[2].max_ln + 3.5f};
  scan.floor_ln = floor_ln;
  const std::vector<FoundTokens> found = Find(scan);
  EXPECT_EQ(found[0].tokens, all[0].tokens);
  EXPECT_LT(found[1].tokens.size(), all[1].tokens.size());
  EXPECT_GE(found[1].tokens.size(), 1u);
  EXPECT_TRUE(found[2].tokens.empty());
}

TEST_F(TokenChoiceTest, AQueryThatIsNotANumberFindsTheFirst) {
  Open(20'000);
  q_[5] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<FoundTokens> found = Find(Scan({70, 19'968}, 10, 8));
  std::vector<uint32_t> first(10);
  std::iota(first.begin(), first.end(), 70u);
  EXPECT_EQ(found[0].tokens, first);
  EXPECT_EQ(found[1].tokens.size(), 10u);
}

TEST_F(TokenChoiceTest, NothingToFind) {
  Open(100);
  for (const FoundTokens& found : Find(Scan({10, 10}, 10, 8))) EXPECT_TRUE(found.tokens.empty());
  for (const FoundTokens& found : Find(Scan({0, 64}, 0, 8))) EXPECT_TRUE(found.tokens.empty());
}

TEST_F(TokenChoiceTest, PiecesHoldEachRowsTokens) {
  for (int round = 0; round < 50; ++round) {
    std::vector<FoundTokens> chosen(kRows);
    for (FoundTokens& row : chosen) {
      const int share = RandomInt(random_, 0, 20);
      for (uint32_t token = 0; token < 700; ++token) {
        if (RandomInt(random_, 0, 99) < share) row.tokens.push_back(token);
      }
    }
    const TokenRange all_rows{700, 700 + RandomInt<uint64_t>(random_, 0, 80)};
    ChosenTokens pieces;
    pieces.Set(chosen, all_rows);
    const PieceList list = pieces.list();
    ASSERT_EQ(list.row_masks.size(), list.pieces.size() * kRows);
    std::vector<std::vector<uint32_t>> seen(kRows);
    for (size_t i = 0; i < list.pieces.size(); ++i) {
      if (i > 0) {
        ASSERT_GT(list.pieces[i].tile, list.pieces[i - 1].tile);
      }
      uint64_t any = 0;
      for (uint32_t row = 0; row < kRows; ++row) {
        const uint64_t mask = list.row_masks[i * kRows + row];
        any |= mask;
        for (uint32_t bit = 0; bit < 64; ++bit) {
          if ((mask >> bit & 1) != 0) seen[row].push_back(static_cast<uint32_t>(list.pieces[i].tile * 64 + bit));
        }
      }
      ASSERT_EQ(any, list.pieces[i].token_mask);
    }
    for (uint32_t row = 0; row < kRows; ++row) {
      std::vector<uint32_t> expected = chosen[row].tokens;
      for (uint64_t token = all_rows.begin; token < all_rows.end; ++token) {
        expected.push_back(static_cast<uint32_t>(token));
      }
      ASSERT_EQ(seen[row], expected);
    }
  }
}

}  // namespace
}  // namespace tributary
