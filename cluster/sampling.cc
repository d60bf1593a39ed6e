#include "cluster/sampling.h"

#include <cmath>

#include "absl/container/flat_hash_set.h"
#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

absl::Status CheckPenalty(const char* name, float value) {
  if (value >= -2 && value <= 2) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{} is {}; use a number from -2 to 2 (0 turns it off)", name, value));
}

absl::Status CheckBiases(const std::vector<LogitBias>& biases) {
  if (biases.size() > limits::kMaxLogitBiases) {
    return absl::InvalidArgumentError(
        fmt::format("logit_bias names {} tokens; at most {} can be", biases.size(), limits::kMaxLogitBiases));
  }
  absl::flat_hash_set<uint32_t> seen;
  for (const LogitBias& bias : biases) {
    if (!(bias.bias >= -100 && bias.bias <= 100)) {
      return absl::InvalidArgumentError(
          fmt::format("logit_bias of token {} is {}; use a number from -100 to 100", bias.token, bias.bias));
    }
    if (!seen.insert(bias.token).second) {
      return absl::InvalidArgumentError(fmt::format("logit_bias names token {} twice; name it once", bias.token));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const SamplingParams& params) {
  if (!std::isfinite(params.temperature) || params.temperature < 0) {
    return absl::InvalidArgumentError(
        fmt::format("temperature is {}; use 0 (greedy) or a positive number", params.temperature));
  }
  if (!(params.top_p >= 0 && params.top_p <= 1)) {
    return absl::InvalidArgumentError(
        fmt::format("top_p is {}; use a number from 0 to 1 (0 and 1 turn it off)", params.top_p));
  }
  if (!(params.min_p >= 0 && params.min_p <= 1)) {
    return absl::InvalidArgumentError(
        fmt::format("min_p is {}; use a number from 0 (which turns it off) to 1", params.min_p));
  }
  // A logit that is divided by less may be infinite, and then no token can be drawn.
  constexpr float kLeast = 0.01f, kLargest = 100;
  const float repetition = params.repetition_penalty;
  if (repetition != 0 && !(repetition >= kLeast && repetition <= kLargest)) {
    return absl::InvalidArgumentError(fmt::format(
        "repetition_penalty is {}; use a number from {} to {} (0 and 1 turn it off)", repetition, kLeast, kLargest));
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckPenalty("presence_penalty", params.presence_penalty));
  TRIBUTARY_RETURN_IF_ERROR(CheckPenalty("frequency_penalty", params.frequency_penalty));
  return CheckBiases(params.logit_bias);
}

}  // namespace tributary
