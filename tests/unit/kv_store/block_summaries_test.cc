#include "kv_store/block_summaries.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/dtype.h"
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
  const std::byte* record = summaries.Records(stream) + block / kSummaryRecordBlocks * layout.record_bytes;
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

TEST(BlockSummaries, ValuesAreThoseOfTheBlocksTokens) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  const uint32_t head_dim = 72;
  const uint32_t tokens = 32 * 70 + 5;  // two records, and a block that is not full
  const std::vector<float> keys = RandomKeys(random, size_t{tokens} * head_dim);
  for (SummaryKind kind : {SummaryKind::kMean, SummaryKind::kMinMax}) {
    for (SummaryStorage storage : {SummaryStorage::kBf16, SummaryStorage::kInt8}) {
      auto summaries = BlockSummaries::Create({kind, storage, 32}, head_dim, 3, tokens);
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
  const std::vector<float> keys = RandomKeys(random, 1000 * 64);
  for (SummaryKind kind : {SummaryKind::kMean, SummaryKind::kMinMax}) {
    auto once = BlockSummaries::Create({kind, SummaryStorage::kInt8, 16}, 64, 1, 1000);
    auto pieces = BlockSummaries::Create({kind, SummaryStorage::kInt8, 16}, 64, 1, 1000);
    ASSERT_TRUE(once.ok() && pieces.ok());
    once->Append(0, keys.data(), 64, 1000);
    for (uint64_t begin = 0; begin < 1000;) {
      const uint64_t count = std::min<uint64_t>(RandomInt(random, 1, 40), 1000 - begin);
      pieces->Append(0, keys.data() + begin * 64, 64, count);
      begin += count;
    }
    ASSERT_EQ(std::memcmp(once->Records(0), pieces->Records(0), once->layout().record_bytes), 0);
  }
}

TEST(BlockSummaries, ABlockWithNanIsMarked) {
  for (SummaryKind kind : {SummaryKind::kMean, SummaryKind::kMinMax}) {
    for (int token : {3, 15}) {
      std::vector<float> keys(32 * 16, 1.0f);
      keys[static_cast<size_t>(token) * 16 + 7] = NAN;
      auto summaries = BlockSummaries::Create({kind, SummaryStorage::kInt8, 16}, 16, 1, 32);
      ASSERT_TRUE(summaries.ok());
      summaries->Append(0, keys.data(), 16, 32);
      EXPECT_TRUE(std::isnan(Value(*summaries, 0, 0, 7)));
      EXPECT_FLOAT_EQ(Value(*summaries, 0, 1, 7), 1.0f);
    }
  }
}

TEST(BlockSummaries, BadOptionsAreRefused) {
  const auto message = [](const BlockSummaryOptions& options, uint32_t head_dim, uint64_t tokens) {
    return std::string(BlockSummaries::Create(options, head_dim, 1, tokens).status().message());
  };
  EXPECT_THAT(message({SummaryKind::kMean, SummaryStorage::kInt8, 24}, 64, 10), HasSubstr("block_tokens is 24"));
  EXPECT_THAT(message({}, 0, 10), HasSubstr("head_dim is 0"));
  EXPECT_THAT(message({}, 64, 0), HasSubstr("capacity of 0"));
}

}  // namespace
}  // namespace tributary
