#include "kv_store/key_codes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "attention/kv/hadamard.h"
#include "base/aligned_buffer.h"
#include "kv_store/block_pool.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

class KeyCodesTest : public testing::Test {
 protected:
  // Some dims lie far from 0, as in real keys.
  std::vector<float> RandomKeys(uint64_t tokens, uint32_t head_dim) {
    std::normal_distribution<float> normal;
    std::vector<float> keys(tokens * head_dim);
    for (size_t i = 0; i < keys.size(); ++i) keys[i] = normal(random_) + (i % head_dim % 16 == 3 ? 8.0f : 0.0f);
    return keys;
  }
  KeyCodes Open(uint32_t bits, const SummarisedKeys& keys) {
    auto codes = KeyCodes::Open({bits}, keys, &pool_);
    EXPECT_TRUE(codes.ok()) << codes.status();
    return *std::move(codes);
  }

  const uint64_t seed_ = TestSeed();
  testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
  AlignedBuffer<std::byte> memory_{8 << 20};
  BlockPool pool_{memory_.span(), 16 << 10};  // extents of few records
};

// Of 64 keys whose distance from their mean is about normal, b bits lose this share of its energy (Max 1960, evenly
// spaced levels): what is between levels, with a scale for each token.
TEST_F(KeyCodesTest, CodesAreAsNearAsTheirBitsAllow) {
  for (const auto& [bits, lost] : {std::pair{1u, 0.363}, {2u, 0.119}, {4u, 0.0115}}) {
    for (const uint32_t head_dim : {64u, 72u, 128u}) {
      const KeyCodeLayout layout = MakeKeyCodeLayout(bits, head_dim);
      const std::vector<float> keys = RandomKeys(64, head_dim);
      AlignedBuffer<std::byte> record(layout.record_bytes);
      EncodeKeyRecord(layout, keys.data(), record.data());
      std::vector<float> rotated = keys, decoded(head_dim);
      std::vector<double> mean(head_dim);
      for (uint32_t token = 0; token < 64; ++token) {
        HadamardRotate(rotated.data() + token * head_dim, head_dim);
        for (uint32_t d = 0; d < head_dim; ++d) mean[d] += rotated[token * head_dim + d] / 64.0;
      }
      double error = 0, energy = 0;
      for (uint32_t token = 0; token < 64; ++token) {
        DecodeKeyCodes(layout, record.data(), token, decoded.data());
        for (uint32_t d = 0; d < head_dim; ++d) {
          error += std::pow(double{decoded[d]} - rotated[token * head_dim + d], 2);
          energy += std::pow(rotated[token * head_dim + d] - mean[d], 2);
        }
      }
      EXPECT_LT(error / energy, 1.15 * lost) << bits << " bits, head_dim " << head_dim;
    }
  }
}

// Two keys about a mean of 0 in every dim, whose codes can be written down: head_dim 1 is not rotated.
TEST_F(KeyCodesTest, OneDimByHand) {
  const KeyCodeLayout layout = MakeKeyCodeLayout(1, 1);
  EXPECT_EQ(layout.padded_dim, 32u);
  EXPECT_EQ(layout.record_bytes, 64u * 4 + 32 + 64 * 4 + 64 - 32);
  std::vector<float> keys(64, 3.0f);
  for (uint32_t token = 0; token < 64; token += 2) keys[token] = -3.0f;
  keys[0] = -5.0f;
  keys[1] = 5.0f;
  AlignedBuffer<std::byte> record(layout.record_bytes);
  EncodeKeyRecord(layout, keys.data(), record.data());
  for (uint32_t token = 0; token < 64; ++token) {
    float decoded = 0;
    DecodeKeyCodes(layout, record.data(), token, &decoded);
    EXPECT_FLOAT_EQ(decoded, keys[token]) << token;  // a sign, and a scale of its own
    EXPECT_EQ(static_cast<uint32_t>(record[PlaceOfKeyCode(layout, 0, token).byte]) & 1, token % 2);
  }
}

TEST_F(KeyCodesTest, RecordsLieOneBehindTheOtherInAnExtent) {
  const std::vector<float> keys = RandomKeys(64 * 40, 64);
  KeyCodes codes = Open(2, {64, 3, 64 * 40 + 7});
  EXPECT_EQ(codes.num_tokens(1), 0u);
  for (uint32_t record = 0; record < 40; ++record) codes.Add(1, keys.data() + size_t{record} * 64 * 64);
  EXPECT_EQ(codes.num_tokens(0), 0u);
  EXPECT_EQ(codes.num_tokens(1), 64u * 40);
  std::vector<std::byte> expected(codes.layout().record_bytes);
  uint32_t num_runs = 0;
  for (uint64_t token = 0; token < 64 * 40; ++num_runs) {
    const KeyCodes::Run run = codes.RunAt(1, token, 64 * 40);
    for (uint64_t i = 0; i < run.num_tokens / 64; ++i) {
      EncodeKeyRecord(codes.layout(), keys.data() + (token + 64 * i) * 64, expected.data());
      ASSERT_EQ(std::memcmp(run.records + i * expected.size(), expected.data(), expected.size()), 0);
    }
    token += run.num_tokens;
  }
  EXPECT_GT(num_runs, 2u);
}

TEST_F(KeyCodesTest, AKeyThatIsNotFiniteIsMarkedAndSpoilsNoOther) {
  const KeyCodeLayout layout = MakeKeyCodeLayout(2, 64);
  std::vector<float> keys = RandomKeys(64, 64);
  std::vector<float> all_finite = keys;
  for (uint32_t d = 0; d < 64; ++d) all_finite[7 * 64 + d] = all_finite[9 * 64 + d] = 0;
  keys[7 * 64 + 5] = std::numeric_limits<float>::infinity();
  keys[9 * 64] = std::numeric_limits<float>::quiet_NaN();
  AlignedBuffer<std::byte> record(layout.record_bytes);
  EncodeKeyRecord(layout, keys.data(), record.data());
  for (uint32_t token = 0; token < 64; ++token) {
    std::vector<float> decoded(64);
    DecodeKeyCodes(layout, record.data(), token, decoded.data());
    for (const float value : decoded) ASSERT_EQ(std::isnan(value), token == 7 || token == 9) << token;
  }
}

// The distance from the mean is infinite though the key is not.
TEST_F(KeyCodesTest, AKeyOfHugeNumbersIsMarked) {
  const KeyCodeLayout layout = MakeKeyCodeLayout(2, 1);
  std::vector<float> keys(64, -3e38f);
  keys[5] = 3e38f;
  AlignedBuffer<std::byte> record(layout.record_bytes);
  EncodeKeyRecord(layout, keys.data(), record.data());
  float decoded = 0;
  DecodeKeyCodes(layout, record.data(), 5, &decoded);
  EXPECT_TRUE(std::isnan(decoded));
  DecodeKeyCodes(layout, record.data(), 6, &decoded);
  EXPECT_TRUE(std::isfinite(decoded));
}

TEST_F(KeyCodesTest, KeysThatAreAllTheSame) {
  const KeyCodeLayout layout = MakeKeyCodeLayout(2, 64);
  const std::vector<float> keys(64 * 64, 3.0f);
  AlignedBuffer<std::byte> record(layout.record_bytes);
  EncodeKeyRecord(layout, keys.data(), record.data());
  std::vector<float> decoded(64);
  DecodeKeyCodes(layout, record.data(), 63, decoded.data());
  HadamardRotate(decoded.data(), 64);
  for (const float value : decoded) EXPECT_NEAR(value, 3.0f, 1e-5);
}

TEST_F(KeyCodesTest, ReservesWhatItSays) {
  const SummarisedKeys keys{128, 6, 1000};
  const auto bytes = KeyCodes::ReservedBytes({2}, keys, 16 << 10);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, Open(2, keys).reserved_bytes());
  // 6 streams of 16 records of 2,496 bytes, 6 in an extent.
  EXPECT_EQ(*bytes, 16u * (16 << 10));
}

TEST_F(KeyCodesTest, RefusesWhatCannotBe) {
  const auto message = [&](const KeyCodeOptions& options, const SummarisedKeys& keys) {
    return std::string(KeyCodes::Open(options, keys, &pool_).status().message());
  };
  EXPECT_THAT(message({3}, {64, 1, 100}), HasSubstr("3 bits; use 1, 2 or 4"));
  EXPECT_THAT(message({2}, {0, 1, 100}), HasSubstr("head_dim is 0"));
  EXPECT_THAT(message({2}, {64, 0, 100}), HasSubstr("0 streams"));
  EXPECT_THAT(message({2}, {64, 1, 0}), HasSubstr("capacity of 0 tokens"));
  EXPECT_EQ(KeyCodes::Open({4}, {128, 64, 100000}, &pool_).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tributary
