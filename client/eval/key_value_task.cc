// The task key-value: a list of names with values, one of which is asked for.
#include <algorithm>
#include <cmath>

#include "base/status.h"
#include "client/eval/needle.h"
#include "client/eval/task.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr std::string_view kHeading = "Values by name:\n";
// Half of the names that there are, so that drawing distinct ones takes no time.
constexpr size_t kMaxPairs = 4096;
constexpr size_t kMeasuredPairs = 64;

std::string Line(const Needle& pair) { return fmt::format("{}: {}\n", pair.name, pair.code); }

// The first `count` pairs as text.
Haystack List(const TextCodec& codec, std::span<const Needle> pairs) {
  Haystack list{.text = codec.chat().before + std::string(kHeading), .tokens = PromptPrefix(codec)};
  for (const Needle& pair : pairs) list.text += Line(pair);
  return list;
}

// As many pairs as have at most `length` tokens.
absl::StatusOr<Haystack> LongestList(TextCodec& codec, std::vector<Needle>& pairs, size_t length) {
  std::string sample;
  for (size_t i = 0; i < std::min(kMeasuredPairs, pairs.size()); ++i) sample += Line(pairs[i]);
  TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<uint32_t> measured, codec.Encode(sample));
  const double tokens_per_pair = static_cast<double>(measured.size()) / kMeasuredPairs;
  // A little too many, and then less by what is too much.
  size_t count = std::min(pairs.size(), static_cast<size_t>(1.1 * static_cast<double>(length) / tokens_per_pair) + 2);
  while (count > 0) {
    Haystack list = List(codec, std::span(pairs).first(count));
    TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, codec.Encode(list.text));
    list.tokens.insert(list.tokens.end(), tokens.begin(), tokens.end());
    if (list.tokens.size() <= length) {
      pairs.resize(count);
      return list;
    }
    const double excess = static_cast<double>(list.tokens.size() - length);
    count -= std::min(count, std::max<size_t>(1, static_cast<size_t>(excess / (1.3 * tokens_per_pair))));
  }
  return absl::InvalidArgumentError(
      fmt::format("a list of {} tokens has no room for a pair; use larger --lengths", length));
}

}  // namespace

absl::StatusOr<std::vector<TaskPrompt>> BuildKeyValuePrompt(const TaskSpec& spec, const TaskContext& context) {
  TextCodec& codec = context.codec;
  EvalRandom random(spec.seed);
  std::vector<Needle> pairs = DrawNeedles(kMaxPairs, random);
  // Questions differ by a token or two; the longest of a few is what room is left for.
  size_t question_tokens = 0;
  const auto ask = [&codec](const Needle& pair) -> absl::StatusOr<TaskPrompt> {
    TaskPrompt prompt;
    prompt.question = QuestionText(codec, fmt::format("What is the value of {} in this list?", pair.name),
                                   fmt::format("{}: ", pair.name), true);
    prompt.answer = AnswerText(codec, pair.code);
    prompt.expected = pair.code;
    prompt.name = pair.name;
    TRIBUTARY_RETURN_IF_ERROR(EncodeQuestion(codec, prompt));
    return prompt;
  };
  for (size_t i = 0; i < kMeasuredPairs; ++i) {
    TRIBUTARY_ASSIGN_OR_RETURN(const TaskPrompt prompt, ask(pairs[i]));
    question_tokens = std::max(question_tokens, prompt.question_tokens.size());
  }
  const size_t length = spec.length_tokens - std::min<size_t>(spec.length_tokens, question_tokens);
  TRIBUTARY_ASSIGN_OR_RETURN(Haystack list, LongestList(codec, pairs, length));
  const auto place = static_cast<size_t>(std::lround(spec.depth * static_cast<double>(pairs.size() - 1)));
  TRIBUTARY_ASSIGN_OR_RETURN(TaskPrompt prompt, ask(pairs[place]));
  prompt.needle_begin = static_cast<uint32_t>(list.text.find(Line(pairs[place])));
  prompt.text = std::move(list.text);
  prompt.text_tokens = std::move(list.tokens);
  return std::vector<TaskPrompt>{std::move(prompt)};
}

}  // namespace tributary
