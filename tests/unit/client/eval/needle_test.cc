#include "client/eval/needle.h"

#include <fstream>
#include <set>

#include "client/eval/needle_prompt.h"
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

// Words of random lengths, as a text has them; now and then a long stretch without a gap.
std::string RandomText(EvalRandom& random, size_t length) {
  std::string text;
  while (text.size() < length) {
    text.append(random.Below(40) == 0 ? 90 : 1 + random.Below(9), static_cast<char>('a' + random.Below(26)));
    text += random.Below(8) == 0 ? "\n\n" : " ";
  }
  return text.substr(0, length);
}

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(NeedlePromptTest, PromptsAreWhatTheySay) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  EvalRandom random(seed);
  for (int round = 0; round < 300; ++round) {
    NeedleSpec spec{.kind = static_cast<NeedleKind>(random.Below(3)), .seed = random.Next()};
    spec.needles = 1 + static_cast<uint32_t>(random.Below(9));
    spec.queries = 1 + static_cast<uint32_t>(random.Below(spec.needles));
    spec.length_tokens = 64 + 130 * (spec.needles + spec.queries) + static_cast<uint32_t>(random.Below(3000));
    spec.depth = random.Below(5) / 4.0;
    const std::string source = RandomText(random, 10'000);
    const auto prompts = MakeNeedlePrompts(spec, source);
    ASSERT_TRUE(prompts.ok()) << prompts.status();
    ASSERT_EQ(prompts->size(), spec.kind == NeedleKind::kMultiQuery ? spec.queries : 1);
    const NeedlePrompt& last = prompts->back();
    EXPECT_EQ(last.text.size() + last.question.size(), spec.length_tokens);
    const uint32_t planted = spec.kind == NeedleKind::kSingle ? 1 : spec.needles;
    EXPECT_EQ(Count(prompts->front().text, "The secret code of "), planted);
    for (size_t i = 0; i < prompts->size(); ++i) {
      const NeedlePrompt& prompt = (*prompts)[i];
      const std::string sentence = prompt.question.substr(1) + prompt.answer;
      EXPECT_EQ(prompt.text.compare(prompt.needle_begin, sentence.size(), sentence), 0);
      EXPECT_EQ(prompt.text[prompt.needle_begin - 1], '\n');
      EXPECT_EQ(prompt.text[prompt.needle_begin + sentence.size()], '\n');
      EXPECT_EQ(Count(prompt.text, sentence), 1u) << "asked for before, or planted twice";
      if (i > 0) {
        const NeedlePrompt& before = (*prompts)[i - 1];
        EXPECT_EQ(prompt.text, before.text + before.question + before.answer);
      }
    }
    if (spec.kind != NeedleKind::kMultiQuery) {
      // The text before it: its share of the depth, moved by a gap and by the other needles.
      const double moved = 90.0 + 70.0 * planted;
      EXPECT_NEAR(last.needle_begin, spec.depth * static_cast<double>(last.text.size()), moved);
    }
    EXPECT_EQ(MakeNeedlePrompts(spec, source)->front().text, prompts->front().text);
  }
}

TEST(NeedlePromptTest, WhatDoesNotFitIsRefused) {
  const std::string source(5000, 'x');
  const auto message = [&](NeedleSpec spec) {
    const auto prompts = MakeNeedlePrompts(spec, source);
    EXPECT_EQ(prompts.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(prompts.status().message());
  };
  EXPECT_THAT(message({.length_tokens = 100}), HasSubstr("100 tokens is too short for 1 needles"));
  EXPECT_THAT(message({.length_tokens = 6000}), HasSubstr("the text has 5000 bytes"));
  EXPECT_THAT(message({.length_tokens = 1000, .depth = 1.1}), HasSubstr("depth 1.1"));
  EXPECT_THAT(message({.length_tokens = 1000, .needles = 0}), HasSubstr("0 needles"));
  EXPECT_THAT(message({.kind = NeedleKind::kMultiQuery, .length_tokens = 1000, .queries = 2}),
              HasSubstr("2 queries for 1 needles"));
}

TEST(NeedlePromptTest, KindsHaveNames) {
  for (const auto kind : {NeedleKind::kSingle, NeedleKind::kMultiKey, NeedleKind::kMultiQuery}) {
    EXPECT_EQ(*ParseNeedleKind(std::string(NeedleKindName(kind))), kind);
  }
  EXPECT_FALSE(ParseNeedleKind("double").ok());
}

}  // namespace
}  // namespace tributary
