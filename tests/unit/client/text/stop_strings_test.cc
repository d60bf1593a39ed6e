#include "client/text/stop_strings.h"

#include "gtest/gtest.h"

namespace tributary {
namespace {

// What is given out of `text` cut into parts of `part_bytes`.
std::string GivenOut(StopStrings& stops, const std::string& text, size_t part_bytes) {
  std::string given;
  for (size_t begin = 0; begin < text.size(); begin += part_bytes) given += stops.Add(text.substr(begin, part_bytes));
  return given + stops.Flush();
}

TEST(StopStringsTest, TheTextEndsAtTheSamePlaceHoweverItIsCut) {
  struct Case {
    std::vector<std::string> stops;
    const char* text;
    const char* expected;
    const char* found;
  };
  const Case cases[] = {
      {{}, "all of it", "all of it", ""},
      {{"END"}, "words END more", "words ", "END"},
      {{"END"}, "words EN", "words EN", ""},
      {{"\n\n", "User:"}, "a\nb\nUser: c\n\n", "a\nb\n", "User:"},
      {{"aab"}, "aaaab", "aa", "aab"},
      {{"bc", "abc"}, "xabcd", "x", "abc"},
      {{"abcd", "bc"}, "xabcd", "xa", "bc"},
      {{"é"}, "caf\xc3\xa9!", "caf", "é"},
      {{"x"}, "x", "", "x"},
  };
  for (const Case& c : cases) {
    for (size_t part_bytes = 1; part_bytes <= 12; ++part_bytes) {
      SCOPED_TRACE(std::string(c.text) + " by " + std::to_string(part_bytes));
      StopStrings stops(c.stops);
      EXPECT_EQ(GivenOut(stops, c.text, part_bytes), c.expected);
      EXPECT_EQ(stops.found(), c.found);
      EXPECT_EQ(stops.Add("more").empty(), stops.found() != "");
    }
  }
}

TEST(StopStringsTest, OnlyWhatMayBeABeginningIsHeldBack) {
  StopStrings stops({"END"});
  EXPECT_EQ(stops.Add("aE"), "a");
  EXPECT_EQ(stops.Add("x"), "Ex");
  EXPECT_EQ(stops.Add("EN"), "");
  EXPECT_EQ(stops.Flush(), "EN");
}

}  // namespace
}  // namespace tributary
