#include "cpu_attention_service/policy/token_choice.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr uint32_t kRows = 3;

TEST(ChosenTokens, PiecesHoldEachRowsTokens) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::vector<uint32_t>> chosen(kRows);
    for (std::vector<uint32_t>& row : chosen) {
      const int share = RandomInt(random, 0, 20);
      for (uint32_t token = 0; token < 700; ++token) {
        if (RandomInt(random, 0, 99) < share) row.push_back(token);
      }
    }
    const TokenRange all_rows{700, 700 + RandomInt<uint64_t>(random, 0, 80)};
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
      std::vector<uint32_t> expected = chosen[row];
      for (uint64_t token = all_rows.begin; token < all_rows.end; ++token) {
        expected.push_back(static_cast<uint32_t>(token));
      }
      ASSERT_EQ(seen[row], expected);
    }
  }
}

}  // namespace
}  // namespace tributary
