#include "model/byte_text.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

TEST(ByteTextTest, RoundTripsEveryByte) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  const std::vector<uint32_t> tokens = TokensFromBytes(all);
  EXPECT_EQ(tokens[0xe2], 0xe2u);
  EXPECT_EQ(BytesFromTokens(tokens), all);
}

TEST(ByteTextTest, MarksIdsThatAreNoBytes) {
  EXPECT_EQ(BytesFromTokens(std::vector<uint32_t>{'a', 256, 70000}), "a??");
}

}  // namespace
}  // namespace tributary
