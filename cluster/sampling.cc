#include "cluster/sampling.h"

#include <cmath>

#include "fmt/format.h"

namespace tributary {

absl::Status Validate(const SamplingParams& params) {
  if (!std::isfinite(params.temperature) || params.temperature < 0) {
    return absl::InvalidArgumentError(
        fmt::format("temperature is {}; use 0 (greedy) or a positive number", params.temperature));
  }
  if (!(params.top_p >= 0 && params.top_p <= 1)) {
    return absl::InvalidArgumentError(
        fmt::format("top_p is {}; use a number from 0 to 1 (0 and 1 turn it off)", params.top_p));
  }
  return absl::OkStatus();
}

}  // namespace tributary
