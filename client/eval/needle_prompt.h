// Prompts with needles: pure, by seed.
//
//   single       one needle at the given depth, asked for
//   multi-key    several needles, one at the given depth and asked for, the others spread over the text to mislead
//   multi-query  several needles spread over the text, some of them asked for one after the other in one context
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tributary {

enum class NeedleKind { kSingle, kMultiKey, kMultiQuery };
std::string_view NeedleKindName(NeedleKind kind);  // "single", "multi-key", "multi-query"
// INVALID_ARGUMENT, listing what there is.
absl::StatusOr<NeedleKind> ParseNeedleKind(const std::string& name);

struct NeedleSpec {
  NeedleKind kind = NeedleKind::kSingle;
  uint32_t length_tokens = 0;  // of the longest prompt, question included; a token is a byte
  double depth = 0;            // wished, of the needle asked for, as a share of the text; multi-query has none
  uint32_t needles = 1;        // single: 1
  uint32_t queries = 1;        // multi-query: how many are asked for; at most `needles`
  uint64_t seed = 0;
};

struct NeedlePrompt {
  std::string text;           // text, then (multi-query) what was asked and answered before
  std::string question;       // follows the text
  std::string answer;         // must follow the question
  std::string name;           // of the needle asked for
  uint32_t needle_begin = 0;  // where its sentence begins in the text
};

// One prompt, or `queries` of them. text + question has length_tokens bytes; in multi-query the last one has, and the
// ones before are shorter by what was not asked yet. INVALID_ARGUMENT with the sizes when the needles do not fit the
// length, or when `source` is too short.
absl::StatusOr<std::vector<NeedlePrompt>> MakeNeedlePrompts(const NeedleSpec& spec, std::string_view source);

}  // namespace tributary
