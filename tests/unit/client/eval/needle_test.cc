#include "client/eval/needle.h"

#include <fstream>
#include <set>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

std::string ReadFile(const char* path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// NAME = ( "..." "..." ).split() of tools/needles.py.
std::string PythonWords(const std::string& source, const std::string& name) {
  const size_t begin = source.find(fmt::format("\n{} = (", name));
  const size_t end = source.find(").split()", begin);
  EXPECT_NE(begin, std::string::npos);
  EXPECT_NE(end, std::string::npos);
  std::string words;
  bool inside = false;  // a string literal
  for (const char c : source.substr(begin, end - begin)) {
    if (c == '"') {
      inside = !inside;
    } else if (inside) {
      words.push_back(c);
    }
  }
  return words;
}

TEST(NeedleTest, WordsAreThoseOfThePythonTool) {
  const std::string source = ReadFile("tools/needles.py");
  EXPECT_EQ(kNeedleAdjectives, PythonWords(source, "ADJECTIVES"));
  EXPECT_EQ(kNeedleNouns, PythonWords(source, "NOUNS"));
  EXPECT_THAT(source, HasSubstr(fmt::format("CODE_DIGITS = {}\n", kNeedleCodeDigits)));
}

// Questions and answers that the Python tool wrote.
TEST(NeedleTest, WordingIsThatOfTheGoldenFile) {
  const auto golden = nlohmann::json::parse(ReadFile("tests/golden/needles_8k.json"));
  ASSERT_FALSE(golden["cases"].empty());
  for (const auto& item : golden["cases"]) {
    const std::string text = item["question"];
    constexpr size_t kNameBegin = sizeof("\nThe secret code of ") - 1;
    const size_t name_end = text.rfind(" is ");
    ASSERT_LT(kNameBegin, name_end) << text;
    const std::string answer = item["answer"];
    const Needle needle{text.substr(kNameBegin, name_end - kNameBegin), answer.substr(0, answer.size() - 1)};
    EXPECT_EQ(needle.Question(), text);
    EXPECT_EQ(needle.Answer(), answer);
    EXPECT_THAT(std::string(golden["haystack"]), HasSubstr(fmt::format("\n{}\n", needle.Sentence())));
  }
}

TEST(NeedleTest, NamesAreDistinctAndSeeded) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  EvalRandom random(seed);
  EvalRandom again(seed);
  const std::vector<Needle> needles = DrawNeedles(500, random);
  const std::vector<Needle> same = DrawNeedles(500, again);
  std::set<std::string> names;
  for (size_t i = 0; i < needles.size(); ++i) {
    EXPECT_EQ(needles[i].Sentence(), same[i].Sentence());
    EXPECT_TRUE(names.insert(needles[i].name).second);
    EXPECT_THAT(needles[i].Sentence(),
                MatchesRegex("The secret code of [a-z]+ [a-z]+ is [0-9][0-9][0-9][0-9][0-9][0-9]\\."));
  }
}

}  // namespace
}  // namespace tributary
