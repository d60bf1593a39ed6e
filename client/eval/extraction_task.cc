// The task extraction: the fields of a record stand far apart in a text, and are asked for together, as JSON.
#include <algorithm>

#include "base/status.h"
#include "client/eval/needle.h"
#include "client/eval/task.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr std::string_view kFieldNames[] = {
    "height", "weight",  "width",  "depth",  "length", "price",  "year",    "speed",   "age",      "area",  "volume",
    "range",  "cargo",   "crew",   "engine", "fuel",   "harbor", "licence", "mast",    "number",   "order", "pilot",
    "port",   "pump",    "radius", "sail",   "shaft",  "store",  "tank",    "tonnage", "value",    "wheel", "zone",
    "anchor", "battery", "cabin",  "deck",   "draft",  "filter", "gauge",   "hull",    "insurance"};
constexpr int kValueDigits = 4;

std::string Sentence(std::string_view name, std::string_view field, std::string_view value) {
  return fmt::format("The {} of {} is {}.", field, name, value);
}

struct Record {
  std::string name;
  std::vector<std::pair<std::string, std::string>> fields;
};

// Distinct fields in a random order.
Record DrawRecord(uint32_t count, EvalRandom& random) {
  Record record{.name = DrawNeedles(1, random)[0].name, .fields = {}};
  std::vector<std::string_view> names(std::begin(kFieldNames), std::end(kFieldNames));
  for (uint32_t i = 0; i < count; ++i) {
    std::swap(names[i], names[i + random.Below(names.size() - i)]);
    std::string value;
    for (int digit = 0; digit < kValueDigits; ++digit) value.push_back(static_cast<char>('0' + random.Below(10)));
    record.fields.emplace_back(names[i], std::move(value));
  }
  return record;
}

absl::StatusOr<TaskPrompt> AskFor(const Record& record, TextCodec& codec) {
  TaskPrompt prompt;
  prompt.name = record.name;
  prompt.fields = record.fields;
  prompt.opening = fmt::format("{{\"{}\": \"", record.fields[0].first);
  std::string names;
  for (const auto& [field, value] : record.fields) {
    const bool is_first = names.empty();
    names += fmt::format("{}{}", is_first ? "" : ", ", field);
    prompt.answer += is_first ? fmt::format("{}\"", value) : fmt::format(", \"{}\": \"{}\"", field, value);
  }
  prompt.answer += "}";
  prompt.expected = prompt.opening + prompt.answer;
  const std::string asked = fmt::format("what the text says of {} as JSON, with the fields {}", record.name, names);
  const std::string stem =
      codec.chat().empty() ? fmt::format("This is {}:\n{}", asked, prompt.opening) : prompt.opening;
  prompt.question = QuestionText(codec, fmt::format("Write {}.", asked), stem, true);
  TRIBUTARY_RETURN_IF_ERROR(EncodeQuestion(codec, prompt));
  return prompt;
}

}  // namespace

absl::StatusOr<std::vector<TaskPrompt>> BuildExtractionPrompt(const TaskSpec& spec, const TaskContext& context) {
  if (spec.fields == 0 || spec.fields > std::size(kFieldNames)) {
    return absl::InvalidArgumentError(
        fmt::format("a record of {} fields is asked for; use 1 to {}", spec.fields, std::size(kFieldNames)));
  }
  TextCodec& codec = context.codec;
  EvalRandom random(spec.seed);
  const Record record = DrawRecord(spec.fields, random);
  TRIBUTARY_ASSIGN_OR_RETURN(TaskPrompt prompt, AskFor(record, codec));
  std::vector<PlantedSentence> sentences;
  size_t taken = prompt.question_tokens.size() + kSnapTokens;
  std::vector<size_t> order(spec.fields);  // in the text, which is not that of the question
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (size_t i = 0; i < order.size(); ++i) std::swap(order[i], order[i + random.Below(order.size() - i)]);
  for (uint32_t i = 0; i < spec.fields; ++i) {  // each anywhere in its part of the text
    const auto& [field, value] = record.fields[order[i]];
    sentences.push_back({.sentence = Sentence(record.name, field, value), .depth = (i + random.Unit()) / spec.fields});
    TRIBUTARY_ASSIGN_OR_RETURN(const size_t tokens, PlantedTokens(codec, sentences.back().sentence));
    taken += tokens;
  }
  if (spec.length_tokens < taken) {
    return absl::InvalidArgumentError(fmt::format(
        "a prompt of {} tokens is too short for a record of {} fields and its question, which take {}; use larger "
        "--lengths or fewer --fields",
        spec.length_tokens, spec.fields, taken));
  }
  const size_t length = spec.length_tokens - prompt.question_tokens.size();
  TRIBUTARY_ASSIGN_OR_RETURN(const size_t begin, DrawBegin(context.source, length, random));
  TRIBUTARY_ASSIGN_OR_RETURN(Haystack haystack, Plant(codec, context.source, begin, length, sentences));
  prompt.needle_begin = sentences.front().begin;
  prompt.text = std::move(haystack.text);
  prompt.text_tokens = std::move(haystack.tokens);
  return std::vector<TaskPrompt>{std::move(prompt)};
}

}  // namespace tributary
