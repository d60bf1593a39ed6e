#include "base/outside_text.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

TEST(PrintableTest, ControlCharactersAreEscapedAndTheRestStays) {
  EXPECT_EQ(Printable("node-1 größer 漢"), "node-1 größer 漢");
  EXPECT_EQ(Printable("a\nb\tc\rd"), "a\\nb\\tc\\x0dd");
  EXPECT_EQ(Printable(std::string_view("\x1b[31m\0\x7f", 7)), "\\x1b[31m\\x00\\x7f");
  EXPECT_EQ(Printable("\xc2\x9b"
                      "31m \xc2\xa9"),
            "\\xc2\\x9b31m \xc2\xa9");  // the C1 control CSI; a copyright sign
  EXPECT_TRUE(IsPrintable(""));
  EXPECT_TRUE(IsPrintable("größer"));
  EXPECT_FALSE(IsPrintable("x\x1b"));
}

TEST(PrintableTest, LongTextIsCutBetweenCharacters) {
  EXPECT_EQ(Printable("abcdef", 6), "abcdef");
  EXPECT_EQ(Printable("abcdefg", 6), "abcdef... (7 bytes)");
  EXPECT_EQ(Printable("abcdeß", 6), "abcde... (7 bytes)");
}

TEST(CheckOutsideTextTest, SaysLengthAndLimit) {
  EXPECT_TRUE(CheckOutsideText("node id", std::string(128, 'x'), 128).ok());
  EXPECT_TRUE(CheckOutsideText("node id", "", 128).ok());
  const absl::Status status = CheckOutsideText("node id", std::string(129, 'x'), 128);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("node id has 129 bytes; at most 128"));
}

TEST(CheckOutsideTextTest, SaysWhereAControlCharacterIs) {
  const absl::Status status = CheckOutsideText("request id", "ab\x1b[2J", 128);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("'ab\\x1b[2J' has a control character at byte 2"));
}

TEST(OutsideTextTest, BytesThatAreNoUtf8AreEscapedAndRefused) {
  EXPECT_EQ(Printable("latin-\xe9"), "latin-\\xe9");
  EXPECT_EQ(Printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(Printable("\xe6\xbc"), "\\xe6\\xbc");                    // a character cut short
  EXPECT_EQ(Printable("\xc0\x80"), "\\xc0\\x80");                    // longer than need be
  EXPECT_EQ(Printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");           // half a pair
  EXPECT_EQ(Printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");  // beyond Unicode
  EXPECT_EQ(Printable("漢 \xf0\x9f\x8c\x8a"), "漢 \xf0\x9f\x8c\x8a");
  const absl::Status status = CheckOutsideText("id", "a\xff", 10);
  EXPECT_EQ(std::string(status.message()), "id 'a\\xff' has a byte that is not UTF-8 at byte 1; use printable text");
}

}  // namespace
}  // namespace tributary
