#include "client/eval/needle_prompt.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "client/eval/needle.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr std::string_view kKindNames[] = {"single", "multi-key", "multi-query"};
// How far a planting place may be moved on to a gap between words.
constexpr size_t kSnapBytes = 64;

struct Planted {
  Needle needle;
  double depth = 0;
  uint32_t begin = 0;  // of the sentence; filled by Plant()
};

// The offset behind the first blank or line end at or after `offset`; `offset` when none is near.
size_t SnapToGap(std::string_view text, size_t offset) {
  const size_t gap = text.substr(offset, kSnapBytes).find_first_of(" \n");
  return gap == std::string_view::npos ? offset : offset + gap + 1;
}

void AppendWithoutEnd(std::string_view piece, std::string& text) {
  const size_t last = piece.find_last_not_of(" \n");
  text += piece.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

// Exactly `length` bytes of `source` with the sentences on lines of their own. REQUIRES: ascending depths; room for
// all, and a source of at least length + kSnapBytes bytes.
std::string Plant(std::string_view source, size_t length, std::vector<Planted>& planted) {
  size_t sentences = 0;
  for (const Planted& p : planted) sentences += p.needle.Sentence().size() + 2;
  const size_t room = length - sentences;
  std::string text;
  size_t last = 0;
  for (Planted& p : planted) {
    // A snap stays within the room, so that no sentence is cut off at the end.
    const double span = room > kSnapBytes ? static_cast<double>(room - kSnapBytes) : 0;
    const size_t wished = std::max(last, static_cast<size_t>(p.depth * span));
    const size_t at = std::max(last, std::min(room, SnapToGap(source, wished)));
    AppendWithoutEnd(source.substr(last, at - last), text);
    text += "\n";
    p.begin = static_cast<uint32_t>(text.size());
    text += p.needle.Sentence() + "\n";
    last = at;
  }
  TRIBUTARY_CHECK_LE(text.size(), length);
  text += source.substr(last, length - text.size());
  TRIBUTARY_CHECK_EQ(text.size(), length);
  return text;
}

// Needles in the order of their depths; [asked[i]] is the i-th to be asked for.
std::vector<Planted> PlanNeedles(const NeedleSpec& spec, EvalRandom& random, std::vector<size_t>& asked) {
  const bool has_depth = spec.kind != NeedleKind::kMultiQuery;
  const uint32_t count = spec.kind == NeedleKind::kSingle ? 1 : spec.needles;
  std::vector<Needle> needles = DrawNeedles(count, random);
  std::vector<Planted> planted;
  const uint32_t spread = has_depth ? count - 1 : count;
  for (uint32_t i = 0; i < spread; ++i) {
    planted.push_back({needles[i], (i + random.Unit()) / spread});
  }
  if (has_depth) {
    const auto place =
        std::find_if(planted.begin(), planted.end(), [&](const Planted& p) { return p.depth > spec.depth; });
    asked = {static_cast<size_t>(place - planted.begin())};
    planted.insert(place, {needles[count - 1], spec.depth});
    return planted;
  }
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = i;
  for (size_t i = 0; i < spec.queries; ++i) {
    std::swap(order[i], order[i + random.Below(count - i)]);
    asked.push_back(order[i]);
  }
  return planted;
}

absl::Status CheckSpec(const NeedleSpec& spec) {
  if (spec.needles == 0 || !(spec.depth >= 0 && spec.depth <= 1)) {
    return absl::InvalidArgumentError(
        fmt::format("{} needles at depth {}; use at least 1, and a depth from 0 to 1", spec.needles, spec.depth));
  }
  if (spec.kind == NeedleKind::kMultiQuery && (spec.queries == 0 || spec.queries > spec.needles)) {
    return absl::InvalidArgumentError(
        fmt::format("{} queries for {} needles; ask for at least 1 and at most all", spec.queries, spec.needles));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view NeedleKindName(NeedleKind kind) { return kKindNames[static_cast<size_t>(kind)]; }

absl::StatusOr<NeedleKind> ParseNeedleKind(const std::string& name) {
  for (size_t i = 0; i < std::size(kKindNames); ++i) {
    if (kKindNames[i] == name) return static_cast<NeedleKind>(i);
  }
  return absl::InvalidArgumentError(
      fmt::format("needle kind '{}' is not known; use single, multi-key or multi-query", name));
}

absl::StatusOr<std::vector<NeedlePrompt>> MakeNeedlePrompts(const NeedleSpec& spec, std::string_view source) {
  TRIBUTARY_RETURN_IF_ERROR(CheckSpec(spec));
  EvalRandom random(spec.seed);
  std::vector<size_t> asked;
  std::vector<Planted> planted = PlanNeedles(spec, random, asked);
  size_t sentences = 0;
  for (const Planted& p : planted) sentences += p.needle.Sentence().size() + 2;
  size_t questions = 0;
  for (size_t i = 0; i < asked.size(); ++i) {
    const Needle& needle = planted[asked[i]].needle;
    questions += needle.Question().size() + (i + 1 < asked.size() ? needle.Answer().size() : 0);
  }
  if (spec.length_tokens < questions + sentences + kSnapBytes) {
    return absl::InvalidArgumentError(
        fmt::format("a prompt of {} tokens is too short for {} needles and {} questions, which take {}; use a "
                    "larger --lengths or fewer --needles",
                    spec.length_tokens, planted.size(), asked.size(), questions + sentences + kSnapBytes));
  }
  const size_t length = spec.length_tokens - questions;
  if (source.size() < length + kSnapBytes) {
    return absl::InvalidArgumentError(
        fmt::format("the text has {} bytes; prompts of {} tokens need {}: give a longer --text-file", source.size(),
                    spec.length_tokens, length + kSnapBytes));
  }
  const size_t begin = random.Below(source.size() - length - kSnapBytes + 1);
  std::string text = Plant(source.substr(begin), length, planted);
  std::vector<NeedlePrompt> prompts;
  for (const size_t i : asked) {
    const Needle& needle = planted[i].needle;
    prompts.push_back({.text = text,
                       .question = needle.Question(),
                       .answer = needle.Answer(),
                       .name = needle.name,
                       .needle_begin = planted[i].begin});
    text += needle.Question() + needle.Answer();
  }
  return prompts;
}

}  // namespace tributary
