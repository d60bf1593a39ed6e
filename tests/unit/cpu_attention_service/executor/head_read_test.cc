// Sums of sources that a KV head reads: against f64 attention over the same tokens, and the same bits on any threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu_attention_service/executor/shard_executor.h"
#include "tests/unit/cpu_attention_service/node/test_shard.h"

namespace tributary {
namespace {

using testing::LayerKv;
using testing::MakeSpec;
using testing::RandomFloats;
using testing::RandomLayerKv;
using testing::RowsOf;
using testing::TestPool;
using testing::TestSeed;

constexpr float kScale = 0.125f;
constexpr uint32_t kLayer = 1, kTokens = 1000;
constexpr AttentionShape kShape{8, 2, 64};
constexpr uint32_t kGroup = 4;

// What one KV head reads, with its memory, and the weight (times exp(-score) where scores are computed) of each token
// for each row, or NaN where it sees nothing of it.
struct OwnedRead {
  HeadRead read;
  std::vector<ReadPiece> pieces, weighted;
  std::vector<uint64_t> row_masks;
  std::vector<float> weights, log_scale_ln;
};

class HeadReadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const ShardSpec spec = MakeSpec(1, kShape, kTokens, DType::kF32);
    shard_ = *KvShard::Open(spec, pool_.get());
    kv_ = RandomLayerKv(spec, kTokens, random_);
    ASSERT_TRUE(shard_->Store(kLayer, 0, kTokens, RowsOf(spec, kv_)).ok());
    cache_ = *RowCache::Open(spec, {.capacity_rows = kTokens}, pool_.get());
    q_ = RandomFloats(size_t{kMaxQueries} * kShape.num_q_heads * kShape.head_dim, random_);
    for (uint32_t head = 0; head < kShape.num_kv_heads; ++head) {
      // Each token goes to one source of the head, or to none.
      for (uint32_t t = kRunEnd; t < kTokens; ++t) source_[head][t] = static_cast<int>(random_() % 4);
      std::vector<uint32_t> cached;
      for (uint32_t t = kRunEnd; t < kTokens; ++t) {
        if (source_[head][t] == kRow) cached.push_back(t);
      }
      cache_->Append(*shard_, kLayer, head, cached);
    }
  }

  std::vector<ReadPiece> PiecesOf(uint32_t head, int source) const {
    std::vector<ReadPiece> pieces;
    for (uint32_t tile = 0; tile < KvTilesFor(kTokens); ++tile) {
      uint64_t mask = 0;
      for (uint32_t t = std::max(tile * 64, kRunEnd); t < std::min(tile * 64 + 64, kTokens); ++t) {
        if (source_[head][t] == source) mask |= uint64_t{1} << (t % 64);
      }
      if (mask != 0 && tile % 5 == 2) {  // as two pieces
        pieces.push_back({tile, mask & 0xffffffff});
        mask &= ~uint64_t{0xffffffff};
      }
      pieces.push_back({tile, mask});  // without tokens, too
    }
    return pieces;
  }

  // `sources`: bit per source.
  OwnedRead MakeRead(uint32_t head, uint32_t sources, uint32_t n_q) {
    OwnedRead owned;
    if ((sources & 1) != 0) owned.read.tokens = {3, kRunEnd};
    if ((sources & 2) != 0) owned.read.rows = {0, cache_->num_rows(kLayer, head)};
    if ((sources & 4) != 0) owned.pieces = PiecesOf(head, kPiece);
    if ((sources & 8) != 0) owned.weighted = PiecesOf(head, kWeighted);
    if ((sources & 16) != 0) {
      for (const ReadPiece& piece : owned.pieces) {
        for (uint32_t row = 0; row < n_q * kGroup; ++row) {
          owned.row_masks.push_back(row % kGroup == 1 ? 0 : piece.token_mask & random_());
        }
      }
    }
    owned.weights.resize(n_q * kGroup * CountTokens(owned.weighted));
    for (float& weight : owned.weights) weight = static_cast<float>(random_() % 1000) / 1000;
    if (!owned.weighted.empty()) owned.log_scale_ln = RandomFloats(n_q * kGroup, random_);
    return owned;
  }
  static void Link(OwnedRead& owned) {
    owned.read.pieces = {owned.pieces, owned.row_masks};
    owned.read.weighted = {owned.weighted, owned.weights, owned.log_scale_ln};
  }

  struct Answer {
    std::vector<float> out, lse_ln;
    friend bool operator==(const Answer& a, const Answer& b) {
      return std::memcmp(a.out.data(), b.out.data(), a.out.size() * sizeof(float)) == 0 && a.lse_ln == b.lse_ln;
    }
  };
  Answer Run(const std::vector<HeadRead>& heads, uint32_t n_q, int threads, uint32_t max_items = 8192,
             std::span<const uint64_t> visible_end = {}) {
    const size_t rows = size_t{n_q} * kShape.num_q_heads;
    Answer answer{std::vector<float>(rows * kShape.head_dim, 77.0f), std::vector<float>(rows, 77.0f)};
    ShardExecutorOptions options;
    options.num_threads = threads;
    options.min_parallel_bytes = 0;
    options.max_items_per_wave = max_items;
    ShardExecutor executor(options);
    ShardQuery query;
    query.shard = shard_.get();
    query.layer = kLayer;
    query.local = {0, kTokens};
    query.n_q = n_q;
    query.q = std::as_bytes(std::span(q_)).first(rows * kShape.head_dim * sizeof(float));
    query.partial = {answer.out, answer.lse_ln};
    query.heads = heads;
    query.cache = cache_.get();
    query.visible_end = visible_end;
    // The batch has another query before it: a result does not depend on what else there is.
    std::vector<float> other_out(kShape.num_q_heads * kShape.head_dim), other_lse_ln(kShape.num_q_heads);
    ShardQuery other = query;
    other.n_q = 1;
    other.q = query.q.first(kShape.num_q_heads * kShape.head_dim * sizeof(float));
    other.heads = {};
    other.visible_end = {};
    other.partial = {other_out, other_lse_ln};
    const ShardQuery queries[] = {other, query};
    executor.Execute(std::span(queries).subspan(threads % 2), kScale);
    return answer;
  }

  double Element(std::span<const std::byte> rows, uint32_t head, uint32_t token, uint32_t dim) const {
    float value = 0;
    const size_t at = (size_t{token} * kShape.num_kv_heads + head) * kShape.head_dim + dim;
    std::memcpy(&value, rows.data() + at * sizeof(float), sizeof(float));
    return value;
  }

  double ScoreOf(uint32_t query, uint32_t head, uint32_t h, uint32_t token) const {
    double score = 0;
    const size_t q_head = size_t{query} * kShape.num_q_heads + head * kGroup + h;
    for (uint32_t d = 0; d < kShape.head_dim; ++d) {
      score += double{q_[q_head * kShape.head_dim + d]} * Element(kv_.k, head, token, d);
    }
    return score * kScale;
  }

  // [token]: its score as the definition of what is read has it; -inf where it is not.
  std::vector<double> ScoresOf(const OwnedRead& owned, uint32_t query, uint32_t head, uint32_t h, uint32_t n_q) const {
    std::vector<double> scores(kTokens, -INFINITY);
    const uint32_t row = query * kGroup + h;
    const auto take = [&](uint32_t t) { scores[t] = ScoreOf(query, head, h, t); };
    for (uint64_t t = owned.read.tokens.begin; t < owned.read.tokens.end; ++t) take(static_cast<uint32_t>(t));
    for (uint32_t t = kRunEnd; t < kTokens && !owned.read.rows.empty(); ++t) {
      if (source_[head][t] == kRow) take(t);
    }
    for (size_t i = 0; i < owned.pieces.size(); ++i) {
      const uint64_t mask =
          owned.row_masks.empty() ? owned.pieces[i].token_mask : owned.row_masks[i * n_q * kGroup + row];
      for (uint32_t t = 0; t < 64; ++t) {
        if ((mask >> t & 1) != 0) take(static_cast<uint32_t>(owned.pieces[i].tile * 64 + t));
      }
    }
    size_t rank = 0;
    const size_t count = CountTokens(owned.weighted);
    for (const ReadPiece& piece : owned.weighted) {
      for (uint32_t t = 0; t < 64; ++t) {
        if ((piece.token_mask >> t & 1) == 0) continue;
        const double weight = owned.weights[row * count + rank++];
        scores[piece.tile * 64 + t] = std::log(weight) + owned.log_scale_ln[row];
      }
    }
    return scores;
  }

  void ExpectSum(const OwnedRead& owned, const Answer& answer, uint32_t head, uint32_t n_q) const {
    for (uint32_t query = 0; query < n_q; ++query) {
      for (uint32_t h = 0; h < kGroup; ++h) {
        const std::vector<double> scores = ScoresOf(owned, query, head, h, n_q);
        const double max = *std::max_element(scores.begin(), scores.end());
        const size_t row = size_t{query} * kShape.num_q_heads + head * kGroup + h;
        double sum = 0;
        std::vector<double> out(kShape.head_dim);
        for (uint32_t t = 0; t < kTokens && max > -INFINITY; ++t) {
          const double weight = std::exp(scores[t] - max);
          if (weight == 0) continue;
          sum += weight;
          for (uint32_t d = 0; d < kShape.head_dim; ++d) out[d] += weight * Element(kv_.v, head, t, d);
        }
        if (sum == 0) {
          ASSERT_EQ(answer.lse_ln[row], kEmptyLse);
        } else {
          ASSERT_NEAR(answer.lse_ln[row], max + std::log(sum), 1e-4) << "query " << query << " head " << h;
        }
        for (uint32_t d = 0; d < kShape.head_dim; ++d) {
          ASSERT_NEAR(answer.out[row * kShape.head_dim + d], sum == 0 ? 0 : out[d] / sum, 1e-4);
        }
      }
    }
  }

  static constexpr uint32_t kMaxQueries = 11;
  static constexpr uint32_t kRunEnd = 230;
  enum { kRow = 1, kPiece = 2, kWeighted = 3 };
  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
  TestPool pool_{16u << 20, 64 << 10};
  std::unique_ptr<KvShard> shard_;
  std::unique_ptr<RowCache> cache_;
  LayerKv kv_;
  std::vector<float> q_;
  std::vector<int> source_[2] = {std::vector<int>(kTokens), std::vector<int>(kTokens)};
};

TEST_F(HeadReadTest, EverySourceAndEverySumOfThem) {
  for (uint32_t sources = 0; sources < 32; ++sources) {
    for (const uint32_t n_q : {1u, 3u, kMaxQueries}) {
      SCOPED_TRACE(::testing::Message() << "sources " << sources << ", " << n_q << " query tokens");
      // The other head reads all sources.
      OwnedRead owned[] = {MakeRead(0, sources, n_q), MakeRead(1, 31, n_q)};
      std::vector<HeadRead> heads;
      for (OwnedRead& one : owned) {
        Link(one);
        heads.push_back(one.read);
      }
      const Answer answer = Run(heads, n_q, 2);
      for (uint32_t head = 0; head < 2; ++head) ExpectSum(owned[head], answer, head, n_q);
      EXPECT_EQ(heads[0].NumTokens(), (sources & 1 ? kRunEnd - 3 : 0) + owned[0].read.rows.size() +
                                          CountTokens(owned[0].pieces) + CountTokens(owned[0].weighted));
    }
  }
}

TEST_F(HeadReadTest, SameBitsOnAnyThreadsInAnyWavesAndBatch) {
  OwnedRead owned[] = {MakeRead(0, 31, kMaxQueries), MakeRead(1, 15, kMaxQueries)};
  std::vector<HeadRead> heads;
  for (OwnedRead& one : owned) {
    Link(one);
    heads.push_back(one.read);
  }
  const Answer expected = Run(heads, kMaxQueries, 1);
  for (const int threads : {1, 2, 3, 5}) {
    for (const uint32_t max_items : {1u, 2u, 3u, 7u, 8192u}) {
      EXPECT_EQ(Run(heads, kMaxQueries, threads, max_items), expected) << threads << " threads, waves of " << max_items;
    }
  }
}

// All tokens as pieces are the run, up to rounding; a causal query cuts both.
TEST_F(HeadReadTest, PiecesAreCutWhereTheRunIs) {
  OwnedRead all;
  for (uint32_t tile = 0; tile < KvTilesFor(kTokens); ++tile) {
    const uint64_t rest = kTokens - tile * 64;
    all.pieces.push_back({tile, rest >= 64 ? ~uint64_t{0} : (uint64_t{1} << rest) - 1});
  }
  Link(all);
  const uint64_t visible_end[] = {1000, 5, 0, 512, 513, 999, 64, 1, 77, 700, 701};
  const Answer pieces = Run({all.read, all.read}, kMaxQueries, 2, 8192, visible_end);
  const Answer run = Run({{.tokens = {0, kTokens}}, {.tokens = {0, kTokens}}}, kMaxQueries, 2, 8192, visible_end);
  for (size_t i = 0; i < run.out.size(); ++i) ASSERT_NEAR(pieces.out[i], run.out[i], 1e-5);
  for (size_t i = 0; i < run.lse_ln.size(); ++i) {
    if (std::isinf(run.lse_ln[i])) {
      ASSERT_EQ(pieces.lse_ln[i], run.lse_ln[i]);
    } else {
      ASSERT_NEAR(pieces.lse_ln[i], run.lse_ln[i], 1e-5);
    }
  }
}

// More pieces than an item takes, a token each.
TEST_F(HeadReadTest, ManySingleTokens) {
  OwnedRead owned;
  for (uint32_t t = 0; t < kTokens; t += 3) owned.pieces.push_back({t / 64, uint64_t{1} << (t % 64)});
  ASSERT_GT(owned.pieces.size(), 2 * kPiecesPerItem);
  Link(owned);
  const Answer answer = Run({owned.read, owned.read}, 2, 3);
  for (uint32_t head = 0; head < 2; ++head) ExpectSum(owned, answer, head, 2);
  EXPECT_EQ(Run({owned.read, owned.read}, 2, 2, 2), answer);
}

}  // namespace
}  // namespace tributary
