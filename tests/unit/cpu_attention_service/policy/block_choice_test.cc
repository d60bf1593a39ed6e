#include "cpu_attention_service/policy/block_choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/unit/cpu_attention_service/node/test_shard.h"

namespace tributary {
namespace {

using testing::MakeSpec;
using testing::RandomFloats;
using testing::RandomLayerKv;
using testing::RowsOf;
using testing::TestPool;
using testing::TestSeed;

constexpr AttentionShape kShape{6, 2, 64};
constexpr uint32_t kGroup = 3, kTokens = 3000, kLayer = 1;
constexpr float kScale = 0.125f;

class BlockChoiceTest : public ::testing::Test {
 protected:
  void Open(const BlockSummaryOptions& options) {
    const ShardSpec spec = MakeSpec(1, kShape, kTokens, DType::kF32);
    shard_ = *KvShard::Open(spec, pool_.get());
    ASSERT_TRUE(shard_->KeepSummaries(options).ok());
    const auto kv = RandomLayerKv(spec, kTokens, random_);
    ASSERT_TRUE(shard_->Store(kLayer, 0, kTokens, RowsOf(spec, kv)).ok());
    q_ = RandomFloats(kGroup * kShape.head_dim, random_);
  }

  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
  TestPool pool_{32u << 20, 64 << 10};
  std::unique_ptr<KvShard> shard_;
  std::vector<float> q_;
};

TEST_F(BlockChoiceTest, ABlocksScoreBoundsItsTokens) {
  const BlockSummaryOptions options{SummaryKind::kMinMax, SummaryStorage::kBf16, 16};
  Open(options);
  const BlockSummaries& summaries = *shard_->FindSummaries(options);
  const uint64_t stream = shard_->SummaryStream(kLayer, 1);
  for (const TokenRange local : {TokenRange{0, kTokens}, TokenRange{16 * 70, 16 * 150}, TokenRange{1030, 1031},
                                 TokenRange{5, 2999}, TokenRange{7, 7}}) {
    const BlockRange blocks = BlocksOf(local, 16);
    const uint32_t stride = blocks.size() + 3;
    std::vector<float> scores(kGroup * stride, -77.0f);
    ScoreBlocks(block_selection::Best(), summaries, stream, local, q_.data(), kGroup, kScale, scores, stride);
    std::vector<float> k(kShape.head_dim), v(kShape.head_dim);
    for (uint32_t row = 0; row < kGroup; ++row) {
      for (uint32_t i = 0; i < blocks.size(); ++i) {
        const float score = scores[row * stride + i];
        const uint64_t begin = (blocks.begin + i) * uint64_t{16}, end = begin + 16;
        if (!local.Contains({begin, end})) {
          EXPECT_EQ(score, INFINITY);
          continue;
        }
        ASSERT_TRUE(std::isfinite(score));
        for (uint64_t t = begin; t < end; ++t) {
          const KvRun run = shard_->RunAt(kLayer, 1, t, t + 1);
          UnpackKvToF32(shard_->tile_layout(), run.tiles, run.token_begin, 1, k.data(), v.data());
          float exact = 0;
          for (uint32_t d = 0; d < kShape.head_dim; ++d) exact += q_[row * kShape.head_dim + d] * k[d];
          ASSERT_GE(score, exact * kScale - 1e-4f) << "block " << blocks.begin + i;
        }
      }
      for (uint32_t i = blocks.size(); i < stride; ++i) EXPECT_EQ(scores[row * stride + i], -77.0f);
    }
  }
}

TEST_F(BlockChoiceTest, PiecesAreTheChosenBlocksForWhoChoseThem) {
  ChosenBlocks chosen;
  for (int round = 0; round < 50; ++round) {
    const uint32_t block_tokens = 16u << (random_() % 4);
    const uint64_t begin = random_() % 500;
    const TokenRange local{begin, begin + random_() % 900};
    const BlockRange blocks = BlocksOf(local, block_tokens);
    std::vector<std::vector<uint32_t>> ids(kGroup);
    std::vector<std::set<uint64_t>> expected(kGroup);
    for (uint32_t row = 0; row < kGroup; ++row) {
      for (uint32_t block = blocks.begin; block < blocks.end; ++block) {
        if (random_() % 4 != 0) continue;
        ids[row].push_back(block);
        for (uint64_t t = uint64_t{block} * block_tokens; t < (block + 1) * uint64_t{block_tokens}; ++t) {
          if (t >= local.begin && t < local.end) expected[row].insert(t);
        }
      }
    }
    const std::vector<std::span<const uint32_t>> rows(ids.begin(), ids.end());
    chosen.Set(rows, block_tokens, local);
    const PieceList list = chosen.list();
    std::vector<std::set<uint64_t>> read(kGroup);
    for (size_t i = 0; i < list.pieces.size(); ++i) {
      if (i > 0) {
        ASSERT_LT(list.pieces[i - 1].tile, list.pieces[i].tile) << "ascending, a tile once";
      }
      uint64_t of_any = 0;
      for (uint32_t row = 0; row < kGroup; ++row) {
        const uint64_t mask = list.row_masks[i * kGroup + row];
        of_any |= mask;
        for (uint32_t t = 0; t < 64; ++t) {
          if ((mask >> t & 1) != 0) read[row].insert(list.pieces[i].tile * 64 + t);
        }
      }
      ASSERT_EQ(of_any, list.pieces[i].token_mask);
    }
    ASSERT_EQ(read, expected) << "blocks of " << block_tokens;
  }
}

}  // namespace
}  // namespace tributary
