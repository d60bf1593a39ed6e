// The tasks with needles: single, multi-key, multi-query.
#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "client/eval/needle.h"
#include "client/eval/task.h"
#include "fmt/format.h"

namespace tributary {
namespace {

struct PlannedNeedle {
  Needle needle;
  double depth = 0;
};

// In the order of their depths; [asked[i]] is the i-th to be asked for.
std::vector<PlannedNeedle> PlanNeedles(const TaskSpec& spec, EvalRandom& random, std::vector<size_t>& asked) {
  const uint32_t count = spec.needles;
  std::vector<Needle> needles = DrawNeedles(count, random);
  std::vector<PlannedNeedle> planned;
  const uint32_t spread = spec.task->has_depth ? count - 1 : count;
  for (uint32_t i = 0; i < spread; ++i) {
    planned.push_back({needles[i], (i + random.Unit()) / spread});
  }
  if (spec.task->has_depth) {
    const auto place =
        std::find_if(planned.begin(), planned.end(), [&](const PlannedNeedle& p) { return p.depth > spec.depth; });
    asked = {static_cast<size_t>(place - planned.begin())};
    planned.insert(place, {needles[count - 1], spec.depth});
    return planned;
  }
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = i;
  for (size_t i = 0; i < spec.queries; ++i) {
    std::swap(order[i], order[i + random.Below(count - i)]);
    asked.push_back(order[i]);
  }
  return planned;
}

absl::Status CheckSpec(const TaskSpec& spec) {
  if (spec.needles == 0 || !(spec.depth >= 0 && spec.depth <= 1)) {
    return absl::InvalidArgumentError(
        fmt::format("{} needles at depth {}; use at least 1, and a depth from 0 to 1", spec.needles, spec.depth));
  }
  if (spec.task->asks_several && (spec.queries == 0 || spec.queries > spec.needles)) {
    return absl::InvalidArgumentError(
        fmt::format("{} queries for {} needles; ask for at least 1 and at most all", spec.queries, spec.needles));
  }
  return absl::OkStatus();
}

absl::StatusOr<TaskPrompt> AskFor(const Needle& needle, TextCodec& codec, bool is_first) {
  TaskPrompt prompt;
  prompt.question =
      QuestionText(codec, fmt::format("What is the secret code of {}?", needle.name), needle.Stem(), is_first);
  prompt.answer = AnswerText(codec, needle.Answer());
  prompt.expected = codec.is_bytes() ? needle.Answer() : needle.code;
  prompt.name = needle.name;
  TRIBUTARY_RETURN_IF_ERROR(EncodeQuestion(codec, prompt));
  return prompt;
}

}  // namespace

absl::StatusOr<std::vector<TaskPrompt>> BuildNeedlePrompts(const TaskSpec& spec, const TaskContext& context) {
  TRIBUTARY_RETURN_IF_ERROR(CheckSpec(spec));
  TextCodec& codec = context.codec;
  EvalRandom random(spec.seed);
  std::vector<size_t> asked;
  const std::vector<PlannedNeedle> planned = PlanNeedles(spec, random, asked);
  std::vector<PlantedSentence> sentences;
  size_t sentence_tokens = 0;
  for (const PlannedNeedle& p : planned) {
    sentences.push_back({.sentence = p.needle.Sentence(), .depth = p.depth});
    TRIBUTARY_ASSIGN_OR_RETURN(const size_t tokens, PlantedTokens(codec, sentences.back().sentence));
    sentence_tokens += tokens;
  }
  std::vector<TaskPrompt> prompts;
  size_t question_tokens = 0;
  for (const size_t i : asked) {
    TRIBUTARY_ASSIGN_OR_RETURN(TaskPrompt prompt, AskFor(planned[i].needle, codec, prompts.empty()));
    question_tokens += prompt.question_tokens.size() + (prompts.empty() ? 0 : prompts.back().answer_tokens.size());
    prompts.push_back(std::move(prompt));
  }
  const size_t least = question_tokens + sentence_tokens + kSnapTokens;
  if (spec.length_tokens < least) {
    return absl::InvalidArgumentError(
        fmt::format("a prompt of {} tokens is too short for {} needles and {} questions, which take {}; use larger "
                    "--lengths or fewer --needles",
                    spec.length_tokens, planned.size(), asked.size(), least));
  }
  const size_t length = spec.length_tokens - question_tokens;
  TRIBUTARY_ASSIGN_OR_RETURN(const size_t begin, DrawBegin(context.source, length, random));
  TRIBUTARY_ASSIGN_OR_RETURN(Haystack haystack, Plant(codec, context.source, begin, length, sentences));
  for (size_t i = 0; i < prompts.size(); ++i) {
    TaskPrompt& prompt = prompts[i];
    prompt.text = haystack.text;
    prompt.text_tokens = haystack.tokens;
    prompt.needle_begin = sentences[asked[i]].begin;
    haystack.text += prompt.question + prompt.answer;
    for (const auto* tokens : {&prompt.question_tokens, &prompt.answer_tokens}) {
      haystack.tokens.insert(haystack.tokens.end(), tokens->begin(), tokens->end());
    }
  }
  return prompts;
}

}  // namespace tributary
