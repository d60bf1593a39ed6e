// Which tokens of a sequence stay on the GPU worker: sinks, a window of the latest ones, and whole blocks on their way
// out.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace tributary {

struct WindowLayout {
  uint32_t sink_tokens = 0;
  uint32_t window_tokens = 0;
  uint32_t block_tokens = 0;
  bool all_resident = false;  // nothing ever leaves

  // Where the remote tokens of a context of this length end; sink_tokens if it has none. What prefill makes of a
  // prompt. REQUIRES: Validate(*this).ok().
  uint64_t RemoteEnd(uint64_t context_tokens) const;
  // Resident slots that a sequence needs which never grows beyond max_context_tokens.
  uint64_t CapacityTokens(uint64_t max_context_tokens) const;

  friend bool operator==(const WindowLayout&, const WindowLayout&) = default;
};

// INVALID_ARGUMENT with the offending values.
absl::Status Validate(const WindowLayout& layout);

}  // namespace tributary
