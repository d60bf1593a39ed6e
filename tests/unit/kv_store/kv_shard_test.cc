#include "kv_store/kv_shard.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr size_t kExtentBytes = 32 << 10;

ShardSpec BasicSpec() {
  ShardSpec spec;
  spec.shard_id = ShardId(5);
  spec.sequence_id = SequenceId(6);
  spec.model = {.num_q_heads = 8, .num_kv_heads = 4, .head_dim = 24};
  spec.num_layers = 5;
  spec.layer_begin = 1;
  spec.layer_end = 4;
  spec.kv_head_begin = 1;
  spec.kv_head_end = 3;
  spec.stripe = {.origin = 10, .stripe_tokens = 16, .num_stripes = 3, .stripe_idx = 1};
  spec.capacity_tokens = 200;
  spec.k_dtype = DType::kF32;
  spec.v_dtype = DType::kBf16;
  return spec;
}

// In which K and V come.
struct Exchange {
  DType k = DType::kF32;
  DType v = DType::kF32;
};

// An exchange row, decided by what it is: absolute token, layer, head, K or V.
std::vector<std::byte> RowBytes(const ShardSpec& spec, uint32_t layer, uint64_t pos, uint32_t head, bool is_k,
                                DType dtype) {
  std::mt19937_64 random(pos * 1000 + layer * 100 + head * 10 + (is_k ? 1 : 0));
  std::normal_distribution<float> normal;
  std::vector<float> values(spec.model.head_dim);
  for (float& value : values) value = normal(random);
  std::vector<std::byte> row(spec.model.head_dim * DTypeBytes(dtype));
  ConvertFromF32(dtype, values.data(), values.size(), row.data());
  return row;
}

// What is read back of it: converted for a float storage; for a quantised one, what a tile of its own
// makes of it.
std::vector<float> StoredRow(const ShardSpec& spec, DType storage, DType exchange, const std::vector<std::byte>& row) {
  const uint32_t head_dim = spec.model.head_dim;
  std::vector<float> values(head_dim), other(head_dim);
  ConvertToF32(exchange, row.data(), head_dim, values.data());
  if (IsValidDType(storage)) {
    std::vector<std::byte> stored(head_dim * DTypeBytes(storage));
    ConvertFromF32(storage, values.data(), head_dim, stored.data());
    ConvertToF32(storage, stored.data(), head_dim, values.data());
    return values;
  }
  const KvStorage kv = static_cast<KvStorage>(storage);
  KvPackArgs args;
  args.layout = MakeKvTileLayout(kv, kv, head_dim);
  AlignedBuffer<std::byte> tile(args.layout.record_bytes);
  args.k_source = args.v_source = static_cast<KvStorage>(exchange);
  args.k = args.v = row.data();
  args.num_tokens = 1;
  args.tiles = tile.data();
  PackKvPlain(args);
  UnpackKvToF32(args.layout, tile.data(), 0, 1, values.data(), other.data());
  return values;
}

std::vector<std::byte> Canonical(const ShardSpec& spec, uint32_t layer, TokenRange tokens, bool is_k, DType dtype) {
  std::vector<std::byte> bytes;
  for (uint64_t pos = tokens.begin; pos < tokens.end; ++pos) {
    for (uint32_t head = 0; head < spec.num_kv_heads_held(); ++head) {
      const std::vector<std::byte> row = RowBytes(spec, layer, pos, head, is_k, dtype);
      bytes.insert(bytes.end(), row.begin(), row.end());
    }
  }
  return bytes;
}

StoreError StoreTokens(KvShard& shard, uint32_t layer, TokenRange tokens, Exchange exchange = {}) {
  const std::vector<std::byte> k = Canonical(shard.spec(), layer, tokens, true, exchange.k);
  const std::vector<std::byte> v = Canonical(shard.spec(), layer, tokens, false, exchange.v);
  return shard.Store(layer, tokens.begin, static_cast<uint32_t>(tokens.size()), {k, v, exchange.k, exchange.v}).error;
}

// All runs of the shard's stripe until it holds `capacity` tokens.
std::vector<TokenRange> StripeRuns(const ShardSpec& spec) {
  std::vector<TokenRange> runs;
  uint64_t local = 0;
  for (uint64_t pos = spec.stripe.origin; local < spec.capacity_tokens;) {
    TokenRange run = spec.stripe.RunAt(pos, pos + spec.stripe.stripe_tokens);
    pos = run.end;
    if (!spec.stripe.Owns(run.begin)) continue;
    run.end = std::min(run.end, run.begin + spec.capacity_tokens - local);
    runs.push_back(run);
    local += run.size();
  }
  return runs;
}

void ExpectHolds(const KvShard& shard, uint32_t layer, const std::vector<TokenRange>& stored_in_order,
                 Exchange exchange = {}) {
  const ShardSpec& spec = shard.spec();
  const uint32_t head_dim = spec.model.head_dim;
  std::vector<uint64_t> positions;
  for (TokenRange run : stored_in_order) {
    for (uint64_t pos = run.begin; pos < run.end; ++pos) positions.push_back(pos);
  }
  ASSERT_EQ(shard.stored_tokens(layer), positions.size());
  for (uint32_t head = 0; head < spec.num_kv_heads_held(); ++head) {
    for (uint64_t local = 0; local < positions.size();) {
      const KvRun run = shard.RunAt(layer, head, local, positions.size());
      ASSERT_GT(run.num_tokens(), 0u);
      ASSERT_EQ(run.first_token + run.token_begin, local);
      ASSERT_EQ(run.first_token % shard.tokens_per_run(), 0u);
      ASSERT_EQ(run.num_tokens(),
                std::min<uint64_t>(shard.tokens_per_run() - local % shard.tokens_per_run(), positions.size() - local));
      std::vector<float> k(size_t{run.num_tokens()} * head_dim), v(k.size());
      UnpackKvToF32(shard.tile_layout(), run.tiles, run.token_begin, run.num_tokens(), k.data(), v.data());
      for (uint32_t i = 0; i < run.num_tokens(); ++i) {
        for (bool is_k : {true, false}) {
          const DType dtype = is_k ? exchange.k : exchange.v;
          const std::vector<float> expected = StoredRow(spec, is_k ? spec.k_dtype : spec.v_dtype, dtype,
                                                        RowBytes(spec, layer, positions[local + i], head, is_k, dtype));
          const float* row = (is_k ? k : v).data() + size_t{i} * head_dim;
          ASSERT_EQ(std::memcmp(row, expected.data(), head_dim * sizeof(float)), 0)
              << (is_k ? "K" : "V") << " of local token " << local + i;
        }
      }
      local += run.num_tokens();
    }
  }
}

// The shard's summaries of a layer are those of the tokens that can be read back, in order.
void ExpectSummaries(const KvShard& shard, const BlockSummaryOptions& options, uint32_t layer, BlockPool* pool) {
  const ShardSpec& spec = shard.spec();
  ASSERT_NE(shard.FindSummaries(options), nullptr);
  const BlockSummaries& kept = *shard.FindSummaries(options);
  const uint32_t head_dim = spec.model.head_dim;
  const uint64_t tokens = shard.stored_tokens(layer);
  for (uint32_t head = 0; head < spec.num_kv_heads_held(); ++head) {
    auto expected = BlockSummaries::Open(options, {head_dim, 1, spec.capacity_tokens}, pool);
    ASSERT_TRUE(expected.ok());
    std::vector<float> k(head_dim), v(head_dim);
    for (uint64_t local = 0; local < tokens; ++local) {
      const KvRun run = shard.RunAt(layer, head, local, local + 1);
      UnpackKvToF32(shard.tile_layout(), run.tiles, run.token_begin, 1, k.data(), v.data());
      expected->Append(0, k.data(), head_dim, 1);
    }
    const uint64_t stream = shard.SummaryStream(layer, head);
    ASSERT_EQ(kept.num_tokens(stream), tokens);
    const uint32_t blocks = kept.num_blocks(stream);
    for (uint32_t block = 0; block < blocks; block += kSummaryRecordBlocks) {
      ASSERT_EQ(std::memcmp(kept.RunAt(stream, block, blocks).records, expected->RunAt(0, block, blocks).records,
                            kept.layout().record_bytes),
                0);
    }
  }
}

class KvShardTest : public testing::Test {
 protected:
  AlignedBuffer<std::byte> region_{kExtentBytes * 200};
  BlockPool pool_{region_.span(), kExtentBytes};
  const uint64_t seed_ = TestSeed();
  testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
};

TEST_F(KvShardTest, AnyOrderAnyCutAnyRepetitionAnyDTypes) {
  for (int round = 0; round < 30; ++round) {
    ShardSpec spec = BasicSpec();
    spec.k_dtype = static_cast<DType>(RandomInt(random_, 1, 6));
    spec.v_dtype = static_cast<DType>(RandomInt(random_, 1, 6));
    const Exchange exchange{static_cast<DType>(RandomInt(random_, 1, 3)), static_cast<DType>(RandomInt(random_, 1, 3))};
    spec.model.head_dim = RandomInt(random_, 1u, 64u);
    // Memory of other shards of old, all NaN.
    std::fill(region_.span().begin(), region_.span().end(), std::byte{0xff});
    spec.stripe.num_stripes = RandomInt(random_, 1u, 3u);
    spec.stripe.stripe_idx = spec.stripe.num_stripes - 1;
    spec.capacity_tokens = RandomInt<uint64_t>(random_, 1, 150);
    auto shard = KvShard::Open(spec, &pool_);
    ASSERT_TRUE(shard.ok()) << shard.status();
    const BlockSummaryOptions summaries[] = {{SummaryKind::kMean, SummaryStorage::kBf16, 16},
                                             {SummaryKind::kMinMax, SummaryStorage::kInt8, 32}};
    for (const BlockSummaryOptions& options : summaries) ASSERT_TRUE((*shard)->KeepSummaries(options).ok());
    const std::vector<TokenRange> runs = StripeRuns(spec);
    std::vector<TokenRange> pieces;
    for (TokenRange run : runs) {
      const uint64_t cut = RandomInt<uint64_t>(random_, run.begin, run.end);
      for (TokenRange piece : {TokenRange{run.begin, cut}, TokenRange{cut, run.end}, run}) {
        if (!piece.empty()) pieces.push_back(piece);
      }
    }
    for (uint32_t layer = spec.layer_begin; layer < spec.layer_end; ++layer) {
      std::shuffle(pieces.begin(), pieces.end(), random_);
      for (TokenRange piece : pieces) ASSERT_EQ(StoreTokens(**shard, layer, piece, exchange), StoreError::kOk);
      ExpectHolds(**shard, layer, runs, exchange);
      for (const BlockSummaryOptions& options : summaries) ExpectSummaries(**shard, options, layer, &pool_);
    }
  }
  EXPECT_EQ(pool_.num_free(), pool_.num_extents());
}

TEST_F(KvShardTest, SummariesAreAskedForOnceAndBeforeTokensCome) {
  const auto shard = *KvShard::Open(BasicSpec(), &pool_);
  EXPECT_EQ(shard->FindSummaries({}), nullptr);
  const uint64_t reserved_bytes = shard->reserved_bytes();
  EXPECT_EQ(shard->KeepSummaries({.block_tokens = 20}).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(StoreTokens(*shard, 2, StripeRuns(shard->spec())[0]), StoreError::kOk);
  EXPECT_EQ(shard->KeepSummaries({}).code(), absl::StatusCode::kFailedPrecondition);
  const auto other = *KvShard::Open(BasicSpec(), &pool_);
  ASSERT_TRUE(other->KeepSummaries({}).ok());
  EXPECT_EQ(other->KeepSummaries({}).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(other->KeepSummaries({.block_tokens = 64}).ok()) << "of several block sizes";
  EXPECT_EQ(other->reserved_bytes(), reserved_bytes + 2 * kExtentBytes) << "out of the pool, an extent each";
}

TEST_F(KvShardTest, StoredTokensStopAtTheFirstGap) {
  const auto shard = *KvShard::Open(BasicSpec(), &pool_);
  const std::vector<TokenRange> runs = StripeRuns(shard->spec());
  ASSERT_EQ(StoreTokens(*shard, 2, runs[1]), StoreError::kOk);
  EXPECT_EQ(shard->stored_tokens(2), 0u);
  ASSERT_EQ(StoreTokens(*shard, 2, {runs[0].begin, runs[0].begin + 3}), StoreError::kOk);
  EXPECT_EQ(shard->stored_tokens(2), 3u);
  ASSERT_EQ(StoreTokens(*shard, 2, {runs[0].begin + 3, runs[0].end}), StoreError::kOk);
  EXPECT_EQ(shard->stored_tokens(2), 32u);
  EXPECT_EQ(shard->stored_tokens(1), 0u);  // layers are apart
  EXPECT_EQ(shard->stored_tokens(0), 0u);  // not held
  EXPECT_EQ(shard->stored_tokens(4), 0u);
}

// Memory that another shard had: what is not stored is zero, whatever was there, and storing more
// keeps what is.
TEST_F(KvShardTest, RecycledTilesAreCleared) {
  std::fill(region_.span().begin(), region_.span().end(), std::byte{0xff});
  ShardSpec spec = BasicSpec();
  spec.stripe = {};
  const auto shard = *KvShard::Open(spec, &pool_);
  const TokenRange pieces[] = {{0, 70}, {70, 75}, {75, 199}};
  for (TokenRange piece : pieces) {
    ASSERT_EQ(StoreTokens(*shard, 2, piece), StoreError::kOk);
    ExpectHolds(*shard, 2, {{0, piece.end}});
    for (uint32_t head = 0; head < 2; ++head) {
      const uint32_t first = static_cast<uint32_t>(piece.end % 64);
      std::vector<float> k((64 - first) * 24), v(k.size());
      UnpackKvToF32(shard->tile_layout(), shard->TileAt(2, head, piece.end / 64), first, 64 - first, k.data(),
                    v.data());
      EXPECT_THAT(k, testing::Each(0.0f));
      EXPECT_THAT(v, testing::Each(0.0f));
    }
  }
}

TEST_F(KvShardTest, RefusesWhatIsNotItsOwn) {
  const auto shard = *KvShard::Open(BasicSpec(), &pool_);
  const TokenRange run = StripeRuns(shard->spec())[0];
  EXPECT_EQ(StoreTokens(*shard, 0, run), StoreError::kOutOfRange);
  EXPECT_EQ(StoreTokens(*shard, 4, run), StoreError::kOutOfRange);
  EXPECT_EQ(StoreTokens(*shard, 1, {run.begin, run.begin}), StoreError::kOutOfRange);
  EXPECT_EQ(StoreTokens(*shard, 1, {run.begin - 1, run.end - 1}), StoreError::kOutOfRange);
  EXPECT_EQ(StoreTokens(*shard, 1, {run.begin + 1, run.end + 1}), StoreError::kOutOfRange);
  EXPECT_EQ(StoreTokens(*shard, 1, {0, 1}), StoreError::kOutOfRange);  // before the origin
  // 13 runs of 16 tokens would be 208 of the capacity of 200.
  const TokenRange last = StripeRuns(shard->spec()).back();
  EXPECT_EQ(last.size(), 8u);
  EXPECT_EQ(StoreTokens(*shard, 1, {last.begin, last.begin + 16}), StoreError::kOutOfRange);
  EXPECT_EQ(StoreTokens(*shard, 1, last), StoreError::kOk);
  const std::vector<std::byte> k = Canonical(shard->spec(), 1, run, true, DType::kF32);
  const std::vector<std::byte> v = Canonical(shard->spec(), 1, run, false, DType::kF16);
  const uint32_t tokens = static_cast<uint32_t>(run.size());
  const KvExchangeRows rows{k, v, DType::kF32, DType::kF16};
  EXPECT_EQ(shard->Store(1, ~uint64_t{0} - 3, tokens, rows).error, StoreError::kOutOfRange);
  KvExchangeRows bad = rows;
  bad.k = bad.k.subspan(1);
  EXPECT_EQ(shard->Store(1, run.begin, tokens, bad).error, StoreError::kBadGeometry);
  bad = rows;
  bad.v = {};
  EXPECT_EQ(shard->Store(1, run.begin, tokens, bad).error, StoreError::kBadGeometry);
  EXPECT_EQ(shard->Store(1, run.begin, tokens - 1, rows).error, StoreError::kBadGeometry);
  for (DType dtype : {DType::kUnset, DType::kBf16, DType::kInt8, static_cast<DType>(77)}) {
    bad = rows;
    bad.k_dtype = dtype;
    EXPECT_EQ(shard->Store(1, run.begin, tokens, bad).error, StoreError::kBadGeometry);
  }
  EXPECT_EQ(shard->stored_tokens(1), 0u);
}

TEST_F(KvShardTest, GapsAreBounded) {
  ShardSpec spec = BasicSpec();
  spec.stripe = {};
  spec.model.head_dim = 1;
  spec.capacity_tokens = 10'000;
  const auto shard = *KvShard::Open(spec, &pool_);
  for (uint64_t i = 0; i < StoredRanges::kMaxRanges; ++i) {
    ASSERT_EQ(StoreTokens(*shard, 1, {2 * i + 1, 2 * i + 2}), StoreError::kOk);
  }
  EXPECT_EQ(StoreTokens(*shard, 1, {5000, 5001}), StoreError::kExhausted);
  EXPECT_EQ(StoreTokens(*shard, 1, {0, 1}), StoreError::kOk);
  EXPECT_EQ(StoreTokens(*shard, 1, {5000, 5001}), StoreError::kOk);
}

TEST_F(KvShardTest, ReservesExactlyWhatItSaysAndGivesItBack) {
  const uint32_t before = pool_.num_free();
  {
    const auto shard = *KvShard::Open(BasicSpec(), &pool_);
    EXPECT_EQ(shard->reserved_bytes(), *KvShard::ReservedBytes(BasicSpec(), kExtentBytes));
    EXPECT_EQ(uint64_t{before - pool_.num_free()} * kExtentBytes, shard->reserved_bytes());
  }
  EXPECT_EQ(pool_.num_free(), before);
}

TEST_F(KvShardTest, FullPoolAndBadSpec) {
  ShardSpec spec = BasicSpec();
  spec.capacity_tokens = 1 << 20;
  const absl::Status full = KvShard::Open(spec, &pool_).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()),
              testing::HasSubstr(std::to_string(*KvShard::ReservedBytes(spec, kExtentBytes)) + " bytes needed, " +
                                 std::to_string(pool_.free_bytes()) + " free"));
  // The largest spec that Validate lets through must not overflow the arithmetic.
  spec.model = {.num_q_heads = 1024, .num_kv_heads = 1024, .head_dim = 256};
  spec.num_layers = spec.layer_end = 512;
  spec.layer_begin = spec.kv_head_begin = 0;
  spec.kv_head_end = 1024;
  spec.capacity_tokens = uint64_t{1} << 31;
  EXPECT_EQ(KvShard::Open(spec, &pool_).status().code(), absl::StatusCode::kInvalidArgument);
  spec.k_dtype = DType::kInt8;
  spec.v_dtype = DType::kInt4;
  EXPECT_EQ(KvShard::Open(spec, &pool_).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(*KvShard::ReservedBytes(spec, kExtentBytes), uint64_t{1} << 57);
  spec.layer_end = 0;
  EXPECT_EQ(KvShard::Open(spec, &pool_).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pool_.num_free(), pool_.num_extents());
}

TEST_F(KvShardTest, RunsAreAlignedForKernelsAndStreamsAreContiguous) {
  ShardSpec spec = BasicSpec();
  spec.model.head_dim = 64;
  spec.stripe = {};
  spec.capacity_tokens = 400;
  for (auto [k_dtype, v_dtype] : {std::pair{DType::kF32, DType::kF16}, {DType::kBf16, DType::kBf16}}) {
    spec.k_dtype = k_dtype;
    spec.v_dtype = v_dtype;
    const auto shard = *KvShard::Open(spec, &pool_);
    ASSERT_EQ(StoreTokens(*shard, 1, {0, 400}), StoreError::kOk);
    ASSERT_EQ(shard->tokens_per_run() % 64, 0u);
    const std::byte* first = shard->RunAt(1, 1, 0, 400).tiles;
    for (uint64_t local = 0; local < 400; local += shard->tokens_per_run()) {
      const KvRun run = shard->RunAt(1, 1, local, 400);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(run.tiles) % kKvTileAlignBytes, 0u);
      EXPECT_EQ(run.tiles - first, local / shard->tokens_per_run() * kExtentBytes);
    }
  }
}

using KvShardDeathTest = KvShardTest;

TEST_F(KvShardDeathTest, ReadingWhatIsNotThereDies) {
  const auto shard = *KvShard::Open(BasicSpec(), &pool_);
  ASSERT_EQ(StoreTokens(*shard, 1, StripeRuns(shard->spec())[0]), StoreError::kOk);
  EXPECT_DEATH(shard->RunAt(1, 0, 0, 17), "check failed");
  EXPECT_DEATH(shard->RunAt(1, 2, 0, 16), "check failed");
  EXPECT_DEATH(shard->RunAt(0, 0, 0, 16), "check failed");
}

}  // namespace
}  // namespace tributary
