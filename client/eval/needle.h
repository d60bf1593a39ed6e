// Needles: facts hidden in a long text, and the questions that ask for them back. The wording is that of
// tools/needles.py, which the probe model was trained with; a test compares the two.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "client/eval/eval_random.h"

namespace tributary {

// Words with one blank between them.
extern const std::string_view kNeedleAdjectives;
extern const std::string_view kNeedleNouns;
inline constexpr int kNeedleCodeDigits = 6;

struct Needle {
  std::string name;  // "amber falcon"
  std::string code;  // "731942"

  // The sentence up to the code, with the trailing blank: what a question ends with.
  std::string Stem() const;
  // What must follow the stem.
  std::string Answer() const;
  std::string Sentence() const;
  // Appended to a haystack; the model must continue with Answer().
  std::string Question() const;
};

// Distinct names; names may share one word, so that a model must match both. At most as many as there are pairs of
// words.
std::vector<Needle> DrawNeedles(size_t count, EvalRandom& random);

}  // namespace tributary
