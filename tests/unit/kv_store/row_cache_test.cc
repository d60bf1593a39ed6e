#include "kv_store/row_cache.h"

#include <cstring>
#include <random>
#include <vector>

#include "attention/kv/kv_pack.h"
#include "base/aligned_buffer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kv_store/tile_rows.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

constexpr size_t kExtentBytes = 64 << 10;
constexpr uint32_t kTokens = 400;

constexpr KvStorage kStorages[] = {KvStorage::kF32,  KvStorage::kBf16, KvStorage::kF16,
                                   KvStorage::kInt8, KvStorage::kInt4, KvStorage::kFp8E4m3};

std::vector<float> Values(const KvTileLayout& layout, const void* tiles, uint64_t token) {
  std::vector<float> values(2 * layout.head_dim);
  UnpackKvToF32(layout, tiles, token, 1, values.data(), values.data() + layout.head_dim);
  return values;
}

class TileRowsTest : public ::testing::Test {
 protected:
  const uint64_t seed_ = TestSeed();
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
};

TEST_F(TileRowsTest, OneTokenIsCopiedAndNoOtherIsTouched) {
  for (const KvStorage k : kStorages) {
    for (const KvStorage v : kStorages) {
      const uint32_t head_dim = RandomInt(random_, 1u, 256u);
      const KvTileLayout layout = MakeKvTileLayout(k, v, head_dim);
      AlignedBuffer<std::byte> from(layout.record_bytes), to(layout.record_bytes);
      // Rows of a quantised storage need sound params: packed, not random bytes.
      const auto fill = [&](AlignedBuffer<std::byte>& tile) {
        std::vector<float> rows(size_t{kKvTileTokens} * head_dim);
        std::normal_distribution<float> normal;
        for (float& value : rows) value = normal(random_);
        std::vector<std::byte> k_rows(rows.size() * 4), v_rows(rows.size() * 4);
        KvPackArgs args;
        args.layout = layout;
        const auto source = [](KvStorage s) { return IsFloatKvStorage(s) ? s : KvStorage::kF32; };
        args.k_source = source(k);
        args.v_source = source(v);
        ConvertFromF32(static_cast<DType>(args.k_source), rows.data(), rows.size(), k_rows.data());
        ConvertFromF32(static_cast<DType>(args.v_source), rows.data(), rows.size(), v_rows.data());
        args.k = k_rows.data();
        args.v = v_rows.data();
        args.k_stride_bytes = head_dim * DTypeBytes(static_cast<DType>(args.k_source));
        args.v_stride_bytes = head_dim * DTypeBytes(static_cast<DType>(args.v_source));
        args.num_tokens = kKvTileTokens;
        args.tiles = tile.data();
        PackKvPlain(args);
      };
      fill(from);
      fill(to);
      for (int i = 0; i < 4; ++i) {
        const uint32_t from_token = RandomInt(random_, 0u, kKvTileTokens - 1);
        const uint32_t to_token = RandomInt(random_, 0u, kKvTileTokens - 1);
        std::vector<std::vector<float>> before;
        for (uint32_t t = 0; t < kKvTileTokens; ++t) before.push_back(Values(layout, to.data(), t));
        before[to_token] = Values(layout, from.data(), from_token);
        CopyTileToken(layout, from.data(), from_token, to.data(), to_token);
        for (uint32_t t = 0; t < kKvTileTokens; ++t) {
          ASSERT_EQ(Values(layout, to.data(), t), before[t])
              << "K " << int(k) << " V " << int(v) << " dim " << head_dim << " token " << t << " of " << from_token
              << " to " << to_token;
        }
      }
    }
  }
}

class RowCacheTest : public TileRowsTest {
 protected:
  RowCacheTest() : memory_(16 << 20), pool_(memory_.span(), kExtentBytes) {
    std::memset(memory_.data(), 0xff, memory_.size());  // NaN, as another shard may have left it
  }

  static ShardSpec Spec() {
    ShardSpec spec;
    spec.shard_id = ShardId(4);
    spec.sequence_id = SequenceId(5);
    spec.model = {4, 2, 64};
    spec.num_layers = 3;
    spec.layer_begin = 1;
    spec.layer_end = 3;
    spec.kv_head_end = 2;
    spec.capacity_tokens = kTokens;
    spec.k_dtype = DType::kInt8;
    spec.v_dtype = DType::kBf16;
    return spec;
  }

  void Open(const RowCacheOptions& options) {
    const ShardSpec spec = Spec();
    auto shard = KvShard::Open(spec, &pool_);
    ASSERT_TRUE(shard.ok()) << shard.status();
    shard_ = *std::move(shard);
    const size_t elements = size_t{kTokens} * 2 * 64;
    std::vector<float> rows(elements);
    std::normal_distribution<float> normal;
    for (const uint32_t layer : {1u, 2u}) {
      for (float& value : rows) value = normal(random_);
      const auto bytes = std::as_bytes(std::span(rows));
      ASSERT_TRUE(shard_->Store(layer, 0, kTokens, {bytes, bytes, DType::kF32, DType::kF32}).ok());
    }
    auto cache = RowCache::Open(spec, options, &pool_);
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
  }

  void ExpectRows(uint32_t layer, uint32_t head, const std::vector<uint32_t>& tokens) {
    ASSERT_EQ(cache_->num_rows(layer, head), tokens.size());
    for (uint64_t row = 0; row < tokens.size();) {
      const KvRun run = cache_->RunAt(layer, head, row, tokens.size());
      ASSERT_EQ(run.first_token + run.token_begin, row);
      for (uint32_t i = run.token_begin; i < run.token_end; ++i, ++row) {
        const uint32_t token = tokens[row];
        ASSERT_EQ(
            Values(cache_->tile_layout(), run.tiles, i),
            Values(shard_->tile_layout(), shard_->TileAt(layer, head, token / kKvTileTokens), token % kKvTileTokens))
            << "row " << row;
      }
      // Behind the last row nothing of what was there before.
      if (row == tokens.size() && row % kKvTileTokens != 0) {
        for (const float value : Values(cache_->tile_layout(), run.tiles, run.token_end)) {
          ASSERT_TRUE(std::isfinite(value));
        }
      }
    }
  }

  std::vector<uint32_t> SomeTokens(size_t count) {
    std::vector<uint32_t> tokens;
    for (size_t i = 0; i < count; ++i) tokens.push_back(RandomInt(random_, 0u, kTokens - 1));
    return tokens;
  }

  AlignedBuffer<std::byte> memory_;
  BlockPool pool_;
  std::unique_ptr<KvShard> shard_;
  std::unique_ptr<RowCache> cache_;
};

TEST_F(RowCacheTest, RowsAreCopiesWhateverIsDoneToThem) {
  Open({kTokens / 2, {}});
  std::vector<std::vector<uint32_t>> expected(4);
  for (int step = 0; step < 60; ++step) {
    const uint32_t stream = RandomInt(random_, 0u, 3u), layer = 1 + stream / 2, head = stream % 2;
    std::vector<uint32_t>& rows = expected[stream];
    switch (RandomInt(random_, 0, 4)) {
      case 0: {
        std::vector<uint32_t> kept, kept_rows;
        for (uint32_t row = 0; row < rows.size(); ++row) {
          if (random_() % 3 == 0) continue;
          kept_rows.push_back(row);
          kept.push_back(rows[row]);
        }
        cache_->Keep(layer, head, kept_rows);
        rows = kept;
        break;
      }
      case 1:
        if (random_() % 3 == 0) {
          cache_->Clear(layer, head);
          rows.clear();
        }
        break;
      default: {
        const std::vector<uint32_t> more =
            SomeTokens(RandomInt<size_t>(random_, 0, cache_->capacity_rows() - rows.size()) / 2);
        cache_->Append(*shard_, layer, head, more);
        rows.insert(rows.end(), more.begin(), more.end());
      }
    }
    for (uint32_t s = 0; s < 4; ++s) ExpectRows(1 + s / 2, s % 2, expected[s]);
  }
}

TEST_F(RowCacheTest, WhatItSaysIsWhatItTakes) {
  for (const RowCacheOptions& options :
       {RowCacheOptions{}, RowCacheOptions{200, {}}, RowCacheOptions{200, {0, 0, 0, 1}},
        RowCacheOptions{64, {1, 1, 0, 1}}, RowCacheOptions{200, {0, 0, 0, 0}}}) {
    const uint64_t before = pool_.free_bytes();
    auto cache = RowCache::Open(Spec(), options, &pool_);
    ASSERT_TRUE(cache.ok()) << cache.status();
    const uint64_t bytes = *RowCache::ReservedBytes(Spec(), options, kExtentBytes);
    EXPECT_EQ(before - pool_.free_bytes(), bytes);
    EXPECT_EQ(*cache == nullptr, bytes == 0);
    if (*cache != nullptr) {
      EXPECT_EQ((*cache)->reserved_bytes(), bytes);
    }
    cache->reset();
    EXPECT_EQ(pool_.free_bytes(), before);
  }
}

TEST_F(RowCacheTest, OptionsThatDoNotFitTheShardAreRefused) {
  for (const RowCacheOptions& options : {RowCacheOptions{kTokens + 1, {}}, RowCacheOptions{10, {1, 1, 1}}}) {
    EXPECT_EQ(RowCache::Open(Spec(), options, &pool_).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(RowCacheTest, HeadsWithoutRowsHaveNoStream) {
  Open({kTokens / 2, {0, 0, 0, 1}});
  EXPECT_FALSE(cache_->Has(1, 0));
  EXPECT_FALSE(cache_->Has(2, 0));
  EXPECT_TRUE(cache_->Has(2, 1));
  EXPECT_FALSE(cache_->Has(0, 1)) << "a layer that is not held";
  EXPECT_FALSE(cache_->Has(2, 2));
  const std::vector<uint32_t> tokens = SomeTokens(100);
  cache_->Append(*shard_, 2, 1, tokens);
  ExpectRows(2, 1, tokens);
  EXPECT_EQ(cache_->filled_bytes(), 2 * cache_->tile_layout().record_bytes);
}

TEST_F(RowCacheTest, AFullPoolSaysWhatIsMissing) {
  AlignedBuffer<std::byte> memory(kExtentBytes);
  BlockPool small(memory.span(), kExtentBytes);
  const absl::Status status = RowCache::Open(Spec(), {kTokens / 2, {}}, &small).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("bytes needed for the rows that its policy caches"));
}

using RowCacheDeathTest = RowCacheTest;

TEST_F(RowCacheDeathTest, MoreThanThereIsRoomFor) {
  Open({64, {}});
  EXPECT_DEATH(cache_->Append(*shard_, 1, 0, SomeTokens(65)), "check failed");
  const std::vector<uint32_t> row = {0};
  EXPECT_DEATH(cache_->Keep(1, 0, row), "check failed");
}

}  // namespace
}  // namespace tributary
