// How a sequence's tokens are picked from its logits.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace tributary {

struct LogitBias {
  uint32_t token = 0;
  float bias = 0;

  friend bool operator==(const LogitBias&, const LogitBias&) = default;
};

struct SamplingParams {
  float temperature = 0;  // 0 = greedy
  uint32_t top_k = 0;     // 0 = off
  float top_p = 0;        // 0 or 1 = off
  uint64_t seed = 0;
  float min_p = 0;               // 0 = off
  float presence_penalty = 0;    // of tokens that the answer has, once each
  float frequency_penalty = 0;   // of tokens that the answer has, each time
  float repetition_penalty = 0;  // 0 or 1 = off; of tokens that prompts or answers have
  std::vector<LogitBias> logit_bias;

  bool penalises_answer() const { return presence_penalty != 0 || frequency_penalty != 0; }
  bool penalises_repetition() const { return repetition_penalty != 0 && repetition_penalty != 1; }
  // Greedy choice follows other logits than the model's.
  bool changes_logits() const { return penalises_answer() || penalises_repetition() || !logit_bias.empty(); }

  friend bool operator==(const SamplingParams&, const SamplingParams&) = default;
};

// INVALID_ARGUMENT with the offending value: temperature negative or not finite, top_p or min_p outside [0, 1],
// presence or frequency penalty outside [-2, 2], repetition penalty negative or not finite, a bias outside
// [-100, 100], a biased token named twice, too many of them.
absl::Status Validate(const SamplingParams& params);

}  // namespace tributary
