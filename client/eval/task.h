// What a model is asked about a long text. A task is a row of Tasks(): a name and a builder of prompts, pure but for
// the tokenizer, by seed.
//
//   single       one needle at the given depth, asked for
//   multi-key    several needles, one at the given depth and asked for, the others spread over the text to mislead
//   multi-query  several needles spread over the text, some of them asked for one after the other in one context
//   key-value    a list of as many names with values as the length holds; the value of the one at the depth
//   extraction   a record whose fields are spread over the text; all fields, as JSON
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "client/eval/eval_random.h"
#include "client/eval/haystack.h"
#include "client/text/text_codec.h"

namespace tributary {

struct TaskRow;

struct TaskSpec {
  const TaskRow* task = nullptr;
  uint32_t length_tokens = 0;  // of the longest prompt, question included, at most; exact if tokens are bytes
  double depth = 0;            // wished, of what is asked for, as a share of the text
  uint32_t needles = 1;        // of the tasks with needles; single: 1
  uint32_t queries = 1;        // multi-query: how many are asked for; at most `needles`
  uint32_t fields = 1;         // extraction
  uint64_t seed = 0;
};

struct TaskPrompt {
  std::string text;           // what there is to read, then (multi-query) what was asked and answered before
  std::string question;       // follows the text
  std::string answer;         // must follow the question
  std::string expected;       // what an answer is compared with, after trimming
  std::string name;           // of what is asked for
  uint32_t needle_begin = 0;  // where it stands in the text, in bytes
  // Extraction: names and values. The question ends with the beginning of the first field, `opening`.
  std::vector<std::pair<std::string, std::string>> fields;
  std::string opening;

  // The tokens of the three texts, `text` with PromptPrefix().
  std::vector<uint32_t> text_tokens;
  std::vector<uint32_t> question_tokens;
  std::vector<uint32_t> answer_tokens;
  uint32_t max_answer_tokens = 0;  // generated: room for other tokens of the same answer
};

struct TaskContext {
  TextCodec& codec;
  const SourceText& source;
};

struct TaskRow {
  std::string_view name;
  // One prompt or, of multi-query, `queries` of them. INVALID_ARGUMENT with the sizes when what is asked for does not
  // fit the length, or when the source is too short.
  absl::StatusOr<std::vector<TaskPrompt>> (*build)(const TaskSpec& spec, const TaskContext& context);
  bool has_needles = false;
  bool has_depth = true;
  bool asks_several = false;  // in one context
};

const std::vector<TaskRow>& Tasks();
// INVALID_ARGUMENT, listing what there is.
absl::StatusOr<const TaskRow*> FindTask(std::string_view name);
std::string TaskNames();  // "single, multi-key, ..."

// The share of what was asked for that is right, 0 to 1: a needle's or a value's answer is right if it begins with what
// is expected and does not go on with another letter or digit; of an extraction, the fields with the right value count,
// wherever they stand in the answer. Blanks around an answer do not matter.
double ScoreAnswer(const TaskPrompt& prompt, std::string_view answer);

// Parts of the builders.

// How a question is put: as the beginning of a sentence, `stem`, which the model goes on with; by a chat template the
// words of the user are `question`, and the stem begins the answer. A vocabulary of bytes keeps the blank at the end of
// the stem, others have it with what follows.
std::string QuestionText(const TextCodec& codec, std::string_view question, std::string_view stem, bool is_first);
std::string AnswerText(const TextCodec& codec, std::string_view answer);
// Fills question_tokens, answer_tokens, max_answer_tokens from the texts.
absl::Status EncodeQuestion(TextCodec& codec, TaskPrompt& prompt);
// Where in the source a haystack of so many tokens begins. INVALID_ARGUMENT if it is too short.
absl::StatusOr<size_t> DrawBegin(const SourceText& source, size_t length_tokens, EvalRandom& random);

absl::StatusOr<std::vector<TaskPrompt>> BuildNeedlePrompts(const TaskSpec& spec, const TaskContext& context);
absl::StatusOr<std::vector<TaskPrompt>> BuildKeyValuePrompt(const TaskSpec& spec, const TaskContext& context);
absl::StatusOr<std::vector<TaskPrompt>> BuildExtractionPrompt(const TaskSpec& spec, const TaskContext& context);

}  // namespace tributary
