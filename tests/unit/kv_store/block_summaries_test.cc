#include "kv_store/block_summaries.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/dtype.h"
#include "kv_store/block_pool.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

constexpr float kLargestKey = 5;

std::vector<float> RandomKeys(std::mt19937_64& random, size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> keys(count);
  for (float& key : keys) key = std::clamp(normal(random), -kLargestKey, kLargestKey);
  return keys;
}

float Value(const BlockSummaries& summaries, uint64_t stream, uint32_t block, uint32_t row) {
  const BlockSummaryLayout& layout = summaries.layout();
  const uint32_t first = block / kSummaryRecordBlocks * kSummaryRecordBlocks;
  const std::byte* record = summaries.RunAt(stream, first, block + 1).records;
  const uint32_t in_record = block % kSummaryRecordBlocks;
  const uint32_t index = SummaryCodeIndex(layout, row, in_record);
  if (layout.storage == SummaryStorage::kBf16) {
    bf16_t code;
    std::memcpy(&code, record + index * 2, sizeof(code));
    return ToFloat(code);
  }
  float scale = 0;
  std::memcpy(&scale, record + layout.scales_begin + in_record * 4, sizeof(scale));
  return (static_cast<float>(record[index]) - 128.0f) * scale;
}

// Extents of which some hold a single record.
class TestPool {
 public:
  BlockPool* get() { return &pool_; }

 private:
  AlignedBuffer<std::byte> memory_{4 << 20};
  BlockPool pool_{memory_.span(), 32 << 10};
};

TEST(BlockSummaries, ValuesAreThoseOfTheBlocksTokens) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  TestPool pool;
  const uint32_t head_dim = 72;
  const uint32_t tokens = 32 * 70 + 5;  // two records, and a block that is not full
  const std::vector<float> keys = RandomKeys(random, size_t{tokens} * head_dim);
  for (SummaryKind kind : {SummaryKind::kMean, SummaryKind::kMinMax}) {
    for (SummaryStorage storage : {SummaryStorage::kBf16, SummaryStorage::kInt8}) {
      auto summaries = BlockSummaries::Open({kind, storage, 32}, {head_dim, 3, tokens}, pool.get());
      ASSERT_TRUE(summaries.ok()) << summaries.status();
      summaries->Append(1, keys.data(), head_dim, tokens);
      ASSERT_EQ(summaries->num_blocks(1), 71u);
      ASSERT_EQ(summaries->num_blocks(0), 0u);
      for (uint32_t block = 0; block < 71; ++block) {
        for (uint32_t d = 0; d < head_dim; ++d) {
          double sum = 0;
          float high = -INFINITY;
          float low = INFINITY;
          const uint32_t end = std::min(tokens, block * 32 + 32);
          for (uint32_t t = block * 32; t < end; ++t) {
            const float key = keys[size_t{t} * head_dim + d];
            sum += key;
            high = std::max(high, key);
            low = std::min(low, key);
          }
          const float step = kLargestKey / (storage == SummaryStorage::kInt8 ? 127 : 128);
          const float value = Value(*summaries, 1, block, d);
          if (kind == SummaryKind::kMean) {
            ASSERT_NEAR(value, sum / (end - block * 32), step / 2);
            continue;
          }
          const float low_value = Value(*summaries, 1, block, summaries->layout().padded_dim + d);
          ASSERT_NEAR(value, high, step);
          ASSERT_NEAR(low_value, low, step);
          ASSERT_GE(value, high - 1e-5f);  // still bounds after rounding
          ASSERT_LE(low_value, low + 1e-5f);
        }
      }
    }
  }
}

TEST(BlockSummaries, BytesDoNotDependOnHowTokensArrive) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  TestPool pool;
  const std::vector<float> keys = RandomKeys(random, 1000 * 64);
  for (SummaryKind kind : {SummaryKind::kMean, SummaryKind::kMinMax}) {
    auto once = BlockSummaries::Open({kind, SummaryStorage::kInt8, 16}, {64, 1, 1000}, pool.get());
    auto pieces = BlockSummaries::Open({kind, SummaryStorage::kInt8, 16}, {64, 1, 1000}, pool.get());
    ASSERT_TRUE(once.ok() && pieces.ok());
    once->Append(0, keys.data(), 64, 1000);
    for (uint64_t begin = 0; begin < 1000;) {
      const uint64_t count = std::min<uint64_t>(RandomInt(random, 1, 40), 1000 - begin);
      pieces->Append(0, keys.data() + begin * 64, 64, count);
      begin += count;
    }
    ASSERT_EQ(std::memcmp(once->RunAt(0, 0, 63).records, pieces->RunAt(0, 0, 63).records, once->layout().record_bytes),
              0);
  }
}

TEST(BlockSummaries, ABlockWithNanIsMarked) {
  TestPool pool;
  for (SummaryKind kind : {SummaryKind::kMean, SummaryKind::kMinMax}) {
    for (int token : {3, 15}) {
      std::vector<float> keys(32 * 16, 1.0f);
      keys[static_cast<size_t>(token) * 16 + 7] = NAN;
      auto summaries = BlockSummaries::Open({kind, SummaryStorage::kInt8, 16}, {16, 1, 32}, pool.get());
      ASSERT_TRUE(summaries.ok());
      summaries->Append(0, keys.data(), 16, 32);
      EXPECT_TRUE(std::isnan(Value(*summaries, 0, 0, 7)));
      EXPECT_FLOAT_EQ(Value(*summaries, 0, 1, 7), 1.0f);
    }
  }
}

// Every block lies in exactly one run; the bytes reserved are those promised.
TEST(BlockSummaries, RunsCoverAllBlocks) {
  TestPool pool;
  const BlockSummaryOptions options{SummaryKind::kMinMax, SummaryStorage::kInt8, 16};
  const SummarisedKeys keys_of{32, 3, 16 * 1000};
  const uint64_t free_bytes = pool.get()->free_bytes();
  auto summaries = BlockSummaries::Open(options, keys_of, pool.get());
  ASSERT_TRUE(summaries.ok()) << summaries.status();
  EXPECT_EQ(free_bytes - pool.get()->free_bytes(), *BlockSummaries::ReservedBytes(options, keys_of, 32 << 10));
  EXPECT_EQ(summaries->reserved_bytes(), free_bytes - pool.get()->free_bytes());
  const std::vector<float> keys(size_t{16} * 32, 1.0f);
  for (int block = 0; block < 990; ++block) summaries->Append(2, keys.data(), 32, 16);
  uint32_t runs = 0;
  for (uint32_t block = 0; block < 990; ++runs) {
    const BlockSummaries::Run run = summaries->RunAt(2, block, 990);
    ASSERT_GT(run.num_blocks, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(run.records) % 64, 0u);
    block += run.num_blocks;
    ASSERT_LE(block, 990u);
  }
  EXPECT_GT(runs, 1u) << "extents of 32 KiB hold seven records";
}

TEST(BlockSummaries, BadOptionsAreRefused) {
  TestPool pool;
  const auto message = [&](const BlockSummaryOptions& options, uint32_t head_dim, uint64_t tokens) {
    return std::string(BlockSummaries::Open(options, {head_dim, 1, tokens}, pool.get()).status().message());
  };
  EXPECT_THAT(message({SummaryKind::kMinMax, SummaryStorage::kBf16, 16}, 256, 10), HasSubstr("larger than an extent"));
  EXPECT_THAT(message({SummaryKind::kMinMax, SummaryStorage::kInt8, 16}, 64, 1 << 26), HasSubstr("free of"));
  EXPECT_THAT(message({SummaryKind::kMean, SummaryStorage::kInt8, 24}, 64, 10), HasSubstr("block_tokens is 24"));
  EXPECT_THAT(message({}, 0, 10), HasSubstr("head_dim is 0"));
  EXPECT_THAT(message({}, 64, 0), HasSubstr("capacity of 0"));
}

}  // namespace
}  // namespace tributary
