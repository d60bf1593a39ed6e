#include "client/eval/task.h"

#include <cmath>
#include <map>
#include <span>

#include "base/crc32c.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A vocabulary of pieces of at most 5 characters: a blank with the letters behind it, a digit, a mark, a line end. What
// comes before a piece decides where it is cut, as in real vocabularies: two texts one behind the other may have fewer
// tokens than both alone.
class PieceCodec : public TextCodec {
 public:
  explicit PieceCodec(ChatFrame chat) : chat_(std::move(chat)) {}

  bool is_bytes() const override { return false; }
  const ChatFrame& chat() const override { return chat_; }
  bool has_chat_template() const override { return !chat_.empty(); }
  const std::vector<uint32_t>& prefix() const override { return prefix_; }
  absl::StatusOr<std::vector<uint32_t>> EncodePrompt(std::string_view text) override { return Encode(text); }
  absl::StatusOr<ChatPrompt> EncodeChat(std::span<const ChatMessage>, bool) override { return ChatPrompt(); }
  absl::StatusOr<std::string> AddToAnswer(std::span<const uint32_t> tokens) override { return Decode(tokens); }
  absl::StatusOr<std::string> EndAnswer() override { return std::string(); }
  absl::StatusOr<std::vector<uint32_t>> Encode(std::string_view text) override {
    return EncodeWithBegins(text)->tokens;
  }
  absl::StatusOr<TokenizedText> EncodeWithBegins(std::string_view text) override {
    TokenizedText encoded;
    for (size_t begin = 0; begin < text.size();) {
      size_t end = begin + 1;
      if (std::isdigit(text[begin]) == 0 && text[begin] != '\n') {
        while (end < text.size() && end - begin < 5 && std::isalpha(text[end]) != 0) ++end;
      }
      encoded.tokens.push_back(Id(text.substr(begin, end - begin)));
      encoded.begins.push_back(static_cast<uint32_t>(begin));
      begin = end;
    }
    return encoded;
  }
  absl::StatusOr<std::string> Decode(std::span<const uint32_t> tokens) override {
    std::string text;
    for (const uint32_t token : tokens) {
      if (token == 0) break;
      text += pieces_[token];
    }
    return text;
  }

 private:
  uint32_t Id(std::string_view piece) {
    const auto [found, is_new] = ids_.try_emplace(std::string(piece), static_cast<uint32_t>(pieces_.size()));
    if (is_new) pieces_.emplace_back(piece);
    return found->second;
  }

  const ChatFrame chat_;
  const std::vector<uint32_t> prefix_{1};
  std::map<std::string, uint32_t> ids_;
  std::vector<std::string> pieces_{"<end>", "<begin>"};
};

const ChatFrame kChat{"[user] ", "[end][model] ", "[end][user] "};

SourceText Source(TextCodec& codec, const std::string& text) { return {text, *codec.EncodeWithBegins(text)}; }

const TaskRow* Task(std::string_view name) { return *FindTask(name); }

// Words of random lengths, as a text has them; now and then a long stretch without a gap.
std::string RandomText(EvalRandom& random, size_t length) {
  std::string text;
  while (text.size() < length) {
    const char letter = static_cast<char>('a' + random.Below(26));  // an order of its own: arguments have none
    text.append(random.Below(40) == 0 ? 90 : 1 + random.Below(9), letter);
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
    TaskSpec spec{.task = &Tasks()[random.Below(3)], .seed = random.Next()};
    spec.needles = 1 + static_cast<uint32_t>(random.Below(9));
    spec.queries = 1 + static_cast<uint32_t>(random.Below(spec.needles));
    spec.length_tokens = 64 + 130 * (spec.needles + spec.queries) + static_cast<uint32_t>(random.Below(3000));
    spec.depth = random.Below(5) / 4.0;
    if (spec.task->name == "single") spec.needles = 1;
    const auto codec = MakeByteCodec();
    const SourceText source = Source(*codec, RandomText(random, 10'000));
    const auto prompts = BuildNeedlePrompts(spec, {*codec, source});
    ASSERT_TRUE(prompts.ok()) << prompts.status();
    ASSERT_EQ(prompts->size(), spec.task->asks_several ? spec.queries : 1);
    const TaskPrompt& last = prompts->back();
    EXPECT_EQ(last.text.size() + last.question.size(), spec.length_tokens);
    const uint32_t planted = spec.needles;
    EXPECT_EQ(last.text_tokens.size() + last.question_tokens.size(), spec.length_tokens);
    EXPECT_EQ(last.max_answer_tokens, last.answer.size());
    EXPECT_EQ(Count(prompts->front().text, "The secret code of "), planted);
    for (size_t i = 0; i < prompts->size(); ++i) {
      const TaskPrompt& prompt = (*prompts)[i];
      const std::string sentence = prompt.question.substr(1) + prompt.answer;
      EXPECT_EQ(prompt.text.compare(prompt.needle_begin, sentence.size(), sentence), 0);
      EXPECT_EQ(prompt.text[prompt.needle_begin - 1], '\n');
      EXPECT_EQ(prompt.text[prompt.needle_begin + sentence.size()], '\n');
      EXPECT_EQ(Count(prompt.text, sentence), 1u) << "asked for before, or planted twice";
      if (i > 0) {
        const TaskPrompt& before = (*prompts)[i - 1];
        EXPECT_EQ(prompt.text, before.text + before.question + before.answer);
      }
    }
    if (spec.task->has_depth) {
      // The text before it: its share of the depth, moved by a gap and by the other needles.
      const double moved = 90.0 + 70.0 * planted;
      EXPECT_NEAR(last.needle_begin, spec.depth * static_cast<double>(last.text.size()), moved);
    }
    EXPECT_EQ(BuildNeedlePrompts(spec, {*codec, source})->front().text, prompts->front().text);
  }
}

TEST(NeedlePromptTest, WhatDoesNotFitIsRefused) {
  const auto codec = MakeByteCodec();
  const SourceText source = Source(*codec, std::string(5000, 'x'));
  const auto message = [&](TaskSpec spec) {
    if (spec.task == nullptr) spec.task = Task("single");
    const auto prompts = spec.task->build(spec, {*codec, source});
    EXPECT_EQ(prompts.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(prompts.status().message());
  };
  EXPECT_THAT(message({.length_tokens = 100}), HasSubstr("100 tokens is too short for 1 needles"));
  EXPECT_THAT(message({.length_tokens = 6000}), HasSubstr("the text has 5000 tokens"));
  EXPECT_THAT(message({.length_tokens = 1000, .depth = 1.1}), HasSubstr("depth 1.1"));
  EXPECT_THAT(message({.length_tokens = 1000, .needles = 0}), HasSubstr("0 needles"));
  EXPECT_THAT(message({.task = Task("multi-query"), .length_tokens = 1000, .queries = 2}),
              HasSubstr("2 queries for 1 needles"));
  EXPECT_THAT(message({.task = Task("extraction"), .length_tokens = 1000, .fields = 100}), HasSubstr("100 fields"));
  EXPECT_THAT(message({.task = Task("extraction"), .length_tokens = 300, .fields = 8}),
              HasSubstr("300 tokens is too short for a record of 8 fields"));
  EXPECT_THAT(message({.task = Task("key-value"), .length_tokens = 50}), HasSubstr("no room for a pair"));
}

// Any task, with and without a chat template: prompts have the length asked for within a few tokens, the tokens of
// their texts, and what is asked for at its place.
TEST(TaskTest, PromptsOfARealVocabularyHaveTheirLength) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  EvalRandom random(seed);
  for (int round = 0; round < 120; ++round) {
    PieceCodec codec(round % 2 == 0 ? ChatFrame{} : kChat);
    const SourceText source = Source(codec, RandomText(random, 20'000));
    TaskSpec spec{.task = &Tasks()[static_cast<size_t>(round) % Tasks().size()], .seed = random.Next()};
    spec.needles = spec.task->name == "single" ? 1 : 1 + static_cast<uint32_t>(random.Below(5));
    spec.queries = 1 + static_cast<uint32_t>(random.Below(spec.needles));
    spec.fields = 1 + static_cast<uint32_t>(random.Below(6));
    spec.length_tokens = 900 + static_cast<uint32_t>(random.Below(1500));
    spec.depth = random.Below(5) / 4.0;
    SCOPED_TRACE(fmt::format("{}, {} tokens", spec.task->name, spec.length_tokens));
    const auto prompts = spec.task->build(spec, {codec, source});
    ASSERT_TRUE(prompts.ok()) << prompts.status();
    const TaskPrompt& last = prompts->back();
    const size_t length = last.text_tokens.size() + last.question_tokens.size();
    EXPECT_LE(length, spec.length_tokens);
    const bool is_list = spec.task->name == "key-value";  // whole pairs, and room for the longest question
    EXPECT_GE(length + (is_list ? 24 : 4), spec.length_tokens);
    for (const TaskPrompt& prompt : *prompts) {
      const size_t prefix = codec.chat().empty() ? 1 : 0;  // a chat template would write it itself
      EXPECT_EQ(prompt.text_tokens[0] == 1, prefix == 1);
      EXPECT_EQ(*codec.Decode(std::span(prompt.text_tokens).subspan(prefix)), prompt.text);
      EXPECT_EQ(*codec.Decode(prompt.question_tokens), prompt.question);
      EXPECT_EQ(prompt.text.starts_with(kChat.before), !codec.chat().empty());
      EXPECT_EQ(prompt.question.find(kChat.answer) != std::string::npos, !codec.chat().empty());
      EXPECT_GT(prompt.max_answer_tokens, prompt.answer_tokens.size());
      EXPECT_EQ(ScoreAnswer(prompt, prompt.answer), 1);
      EXPECT_THAT(prompt.text.substr(prompt.needle_begin, 80), HasSubstr(prompt.name));
    }
    if (spec.task->has_depth) {
      const double at = static_cast<double>(codec.Encode(last.text.substr(0, last.needle_begin))->size());
      EXPECT_NEAR(at, spec.depth * static_cast<double>(last.text_tokens.size()), 100.0 + 30.0 * spec.needles);
    }
  }
}

// The figures of docs/quality.md were measured with these prompts: a change here asks other questions.
TEST(NeedlePromptTest, PromptsOfASeedStayTheSame) {
  const auto codec = MakeByteCodec();
  EvalRandom random(11);
  const SourceText source = Source(*codec, RandomText(random, 6000));
  uint32_t crc = 0;
  for (const char* name : {"single", "multi-key", "multi-query"}) {
    TaskSpec spec{.task = Task(name), .length_tokens = 2000, .depth = 0.4, .needles = 5, .queries = 3, .seed = 5};
    if (spec.task->name == "single") spec.needles = 1;
    const auto prompts = BuildNeedlePrompts(spec, {*codec, source});
    ASSERT_TRUE(prompts.ok()) << prompts.status();
    for (const TaskPrompt& prompt : *prompts) {
      const std::string all = prompt.text + prompt.question + prompt.answer;
      crc = Crc32c(std::as_bytes(std::span(all)), crc);
    }
  }
  EXPECT_EQ(crc, 1165321635u);
}

TEST(TaskTest, AChatAsksTheNextQuestionInATurnOfItsOwn) {
  PieceCodec codec(kChat);
  EvalRandom random(7);
  const SourceText source = Source(codec, RandomText(random, 20'000));
  const auto prompts = BuildNeedlePrompts(
      {.task = Task("multi-query"), .length_tokens = 1500, .needles = 3, .queries = 2, .seed = 3}, {codec, source});
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  const std::string& name = (*prompts)[1].name;
  EXPECT_EQ((*prompts)[1].question,
            fmt::format("[end][user] What is the secret code of {}?[end][model] The secret code of {} is", name, name));
  EXPECT_EQ((*prompts)[0].question.find("[end][user]"), std::string::npos);
  EXPECT_EQ((*prompts)[1].text, (*prompts)[0].text + (*prompts)[0].question + (*prompts)[0].answer);
  EXPECT_EQ((*prompts)[1].answer.front(), ' ');
}

TEST(TaskTest, AnAnswerIsComparedAsText) {
  const TaskPrompt needle{.expected = "731942"};
  EXPECT_EQ(ScoreAnswer(needle, " 731942.\nAnd"), 1);
  EXPECT_EQ(ScoreAnswer(needle, "731942"), 1);
  EXPECT_EQ(ScoreAnswer(needle, "7319425"), 0);
  EXPECT_EQ(ScoreAnswer(needle, "73194"), 0);
  EXPECT_EQ(ScoreAnswer(needle, "it is 731942"), 0);
  EXPECT_EQ(ScoreAnswer(needle, ""), 0);
}

TEST(TaskTest, EachFieldOfAnExtractionCounts) {
  const TaskPrompt prompt{.fields = {{"height", "4821"}, {"weight", "0307"}, {"year", "1999"}, {"price", "5"}},
                          .opening = "{\"height\": \""};
  EXPECT_EQ(ScoreAnswer(prompt, R"(4821", "weight": "0307", "year": "1999", "price": "5"})"), 1);
  EXPECT_EQ(ScoreAnswer(prompt, R"(4821", "price":5, "weight": "307", "year" : "1999"})"), 0.75);
  EXPECT_EQ(ScoreAnswer(prompt, R"(4822", "weight": "03")"), 0);
  EXPECT_EQ(ScoreAnswer(prompt, ""), 0);
}

TEST(TaskTest, TasksHaveNames) {
  for (const TaskRow& task : Tasks()) EXPECT_EQ(*FindTask(task.name), &task);
  EXPECT_THAT(std::string(FindTask("double").status().message()),
              HasSubstr("use single, multi-key, multi-query, key-value, extraction"));
}

}  // namespace
}  // namespace tributary
