#include "base/crc32c.h"

#include <random>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"

namespace tributary {
namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

// The definition, bit by bit.
uint32_t PlainCrc32c(std::span<const std::byte> bytes) {
  uint32_t state = ~0u;
  for (const std::byte b : bytes) {
    state ^= static_cast<uint32_t>(b);
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1) != 0 ? 0x82f63b78u : 0u);
  }
  return ~state;
}

TEST(Crc32cTest, KnownValues) {
  EXPECT_EQ(Crc32c({}), 0u);
  EXPECT_EQ(Crc32c(Bytes("123456789")), 0xe3069283u);
  // RFC 3720, appendix B.4.
  EXPECT_EQ(Crc32c(std::vector<std::byte>(32, std::byte{0x00})), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::vector<std::byte>(32, std::byte{0xff})), 0x62a8ab43u);
}

TEST(Crc32cTest, EveryLengthAndAlignmentAgreesWithTheDefinition) {
  std::mt19937_64 random(1);
  std::vector<std::byte> bytes(3000);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  for (size_t size = 0; size < 2900; size += size < 600 ? 1 : 37) {
    const size_t begin = random() % 64;
    const std::span<const std::byte> part = std::span(bytes).subspan(begin, size);
    ASSERT_EQ(Crc32c(part), PlainCrc32c(part)) << "size " << size << " begin " << begin;
  }
}

TEST(Crc32cTest, GoesOnFromAPart) {
  std::mt19937_64 random(2);
  std::vector<std::byte> bytes(5000);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  const uint32_t whole = Crc32c(bytes);
  for (const size_t cut : {size_t{0}, size_t{1}, size_t{64}, size_t{1023}, bytes.size()}) {
    EXPECT_EQ(Crc32c(std::span(bytes).subspan(cut), Crc32c(std::span(bytes).first(cut))), whole) << "cut at " << cut;
  }
}

TEST(Crc32cTest, EverySingleBitIsSeen) {
  std::vector<std::byte> bytes(700, std::byte{0x5a});
  const uint32_t whole = Crc32c(bytes);
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const std::byte mask = std::byte{1} << (bit % 8);
    bytes[bit / 8] ^= mask;
    ASSERT_NE(Crc32c(bytes), whole) << "bit " << bit;
    bytes[bit / 8] ^= mask;
  }
}

}  // namespace
}  // namespace tributary
