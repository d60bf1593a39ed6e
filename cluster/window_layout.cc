#include "cluster/window_layout.h"

#include <algorithm>

#include "base/limits.h"
#include "fmt/format.h"

namespace tributary {

uint64_t WindowLayout::RemoteEnd(uint64_t context_tokens) const {
  const uint64_t kept = uint64_t{sink_tokens} + window_tokens;
  if (all_resident || context_tokens <= kept + block_tokens) return sink_tokens;
  return sink_tokens + (context_tokens - kept) / block_tokens * block_tokens;
}

uint64_t WindowLayout::CapacityTokens(uint64_t max_context_tokens) const {
  if (all_resident) return max_context_tokens;
  return std::min(max_context_tokens, sink_tokens + uint64_t{window_tokens} + 2 * uint64_t{block_tokens});
}

absl::Status Validate(const WindowLayout& layout) {
  if (layout.all_resident) return absl::OkStatus();
  if (layout.block_tokens == 0 || layout.block_tokens > limits::kMaxBlockTokens) {
    return absl::InvalidArgumentError(
        fmt::format("block_tokens is {}, must be in [1, {}]", layout.block_tokens, limits::kMaxBlockTokens));
  }
  if (layout.window_tokens < layout.block_tokens) {
    return absl::InvalidArgumentError(
        fmt::format("window_tokens {} is smaller than a block of {} tokens: enlarge the window or "
                    "choose smaller blocks",
                    layout.window_tokens, layout.block_tokens));
  }
  const uint64_t resident = uint64_t{layout.sink_tokens} + layout.window_tokens;
  if (resident > limits::kMaxContextTokens) {
    return absl::InvalidArgumentError(fmt::format("sink_tokens {} + window_tokens {} exceed {}", layout.sink_tokens,
                                                  layout.window_tokens, limits::kMaxContextTokens));
  }
  return absl::OkStatus();
}

}  // namespace tributary
