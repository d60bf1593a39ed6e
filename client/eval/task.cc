#include "client/eval/task.h"

#include <algorithm>
#include <cctype>

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

bool IsWordCharacter(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

bool BeginsWith(std::string_view answer, std::string_view expected) {
  answer = Trim(answer);
  if (!answer.starts_with(expected)) return false;
  answer.remove_prefix(expected.size());
  return answer.empty() || !IsWordCharacter(expected.back()) || !IsWordCharacter(answer.front());
}

// The value behind the first `"field":` of the text, without quotes; "" if there is none.
std::string_view ValueOf(std::string_view text, std::string_view field) {
  const std::string key = fmt::format("\"{}\"", field);
  const size_t at = text.find(key);
  if (at == std::string_view::npos) return {};
  text = Trim(text.substr(at + key.size()));
  if (!text.starts_with(':')) return {};
  text = Trim(text.substr(1));
  const bool is_quoted = text.starts_with('"');
  if (is_quoted) text.remove_prefix(1);
  return Trim(text.substr(0, text.find_first_of(is_quoted ? "\"\n" : "\",}\n")));
}

}  // namespace

const std::vector<TaskRow>& Tasks() {
  static const std::vector<TaskRow> tasks{
      {.name = "single", .build = &BuildNeedlePrompts, .has_needles = true},
      {.name = "multi-key", .build = &BuildNeedlePrompts, .has_needles = true},
      {.name = "multi-query",
       .build = &BuildNeedlePrompts,
       .has_needles = true,
       .has_depth = false,
       .asks_several = true},
      {.name = "key-value", .build = &BuildKeyValuePrompt},
      {.name = "extraction", .build = &BuildExtractionPrompt, .has_depth = false},
  };
  return tasks;
}

std::string TaskNames() {
  std::string names;
  for (const TaskRow& task : Tasks()) names += fmt::format("{}{}", names.empty() ? "" : ", ", task.name);
  return names;
}

absl::StatusOr<const TaskRow*> FindTask(std::string_view name) {
  for (const TaskRow& task : Tasks()) {
    if (task.name == name) return &task;
  }
  return absl::InvalidArgumentError(fmt::format("task '{}' is not known; use {}", name, TaskNames()));
}

double ScoreAnswer(const TaskPrompt& prompt, std::string_view answer) {
  if (prompt.fields.empty()) return BeginsWith(answer, prompt.expected) ? 1 : 0;
  const std::string text = prompt.opening + std::string(answer);
  const auto right = std::count_if(prompt.fields.begin(), prompt.fields.end(),
                                   [&text](const auto& field) { return ValueOf(text, field.first) == field.second; });
  return static_cast<double>(right) / static_cast<double>(prompt.fields.size());
}

std::string QuestionText(const TextCodec& codec, std::string_view question, std::string_view stem, bool is_first) {
  if (codec.is_bytes()) return fmt::format("\n{}", stem);
  while (stem.ends_with(' ')) stem.remove_suffix(1);
  const ChatFrame& chat = codec.chat();
  if (chat.empty()) return fmt::format("\n{}", stem);
  return fmt::format("{}{}{}{}", is_first ? "\n\n" : chat.next, question, chat.answer, stem);
}

std::string AnswerText(const TextCodec& codec, std::string_view answer) {
  return fmt::format("{}{}", codec.is_bytes() ? "" : " ", answer);
}

absl::Status EncodeQuestion(TextCodec& codec, TaskPrompt& prompt) {
  TRIBUTARY_ASSIGN_OR_RETURN(prompt.question_tokens, codec.Encode(prompt.question));
  TRIBUTARY_ASSIGN_OR_RETURN(prompt.answer_tokens, codec.Encode(prompt.answer));
  size_t spare = 0;
  // One more shows whether a number goes on; words may be cut into more tokens than they need.
  if (prompt.answer == prompt.expected && IsWordCharacter(prompt.answer.back())) spare = 1;
  if (!codec.is_bytes()) spare = 2 + prompt.answer_tokens.size() / 4;
  prompt.max_answer_tokens = static_cast<uint32_t>(prompt.answer_tokens.size() + spare);
  return absl::OkStatus();
}

absl::StatusOr<size_t> DrawBegin(const SourceText& source, size_t length_tokens, EvalRandom& random) {
  const size_t needed = length_tokens + kSnapTokens;
  if (source.num_tokens() < needed) {
    return absl::InvalidArgumentError(
        fmt::format("the text has {} tokens, and a prompt needs {}: give a longer "
                    "--text-file, or smaller --lengths",
                    source.num_tokens(), needed));
  }
  return random.Below(source.num_tokens() - needed + 1);
}

}  // namespace tributary
