#include "base/siphash.h"

#include <numeric>
#include <vector>

#include "gtest/gtest.h"

namespace tributary {
namespace {

constexpr SipKey kPaperKey = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};

std::vector<std::byte> Counting(size_t size) {
  std::vector<std::byte> message(size);
  for (size_t i = 0; i < size; ++i) message[i] = static_cast<std::byte>(i);
  return message;
}

// Appendix A of the paper: key 00..0f, message 00..0e.
TEST(SipHashTest, PublishedVector) { EXPECT_EQ(SipHash24(kPaperKey, Counting(15)), 0xa129ca6149be45e5u); }

// From the authors' table of vectors (the first two entries, little-endian).
TEST(SipHashTest, ShortMessages) {
  EXPECT_EQ(SipHash24(kPaperKey, {}), 0x726fdb47dd0e0e31u);
  EXPECT_EQ(SipHash24(kPaperKey, Counting(1)), 0x74f839c593dc67fdu);
}

TEST(SipHashTest, DependsOnKeyLengthAndEveryBit) {
  std::vector<std::byte> message = Counting(64);
  const uint64_t tag = SipHash24(kPaperKey, message);
  EXPECT_NE(SipHash24({kPaperKey[0] ^ 1, kPaperKey[1]}, message), tag);
  EXPECT_NE(SipHash24({kPaperKey[0], kPaperKey[1] ^ 1}, message), tag);
  EXPECT_NE(SipHash24(kPaperKey, std::span(message).first(63)), tag);
  for (size_t bit = 0; bit < message.size() * 8; ++bit) {
    message[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_NE(SipHash24(kPaperKey, message), tag) << "bit " << bit;
    message[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

}  // namespace
}  // namespace tributary
