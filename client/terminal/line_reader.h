// Lines of standard input, as a person types them or a pipe brings them.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace tributary {

// Thread-compatible; nobody else reads the descriptor.
class LineReader {
 public:
  // Gives up when `stop_requested` says so, which is asked several times a second.
  LineReader(int fd, std::function<bool()> stop_requested) : fd_(fd), stop_requested_(std::move(stop_requested)) {}

  // The next line without its end; the last one may have none. nullopt at the end of the input, or when it gave up.
  // INVALID_ARGUMENT for a line beyond limits::kMaxPromptBytes, UNAVAILABLE if reading fails.
  absl::StatusOr<std::optional<std::string>> Read();

 private:
  std::optional<std::string> TakeLine(size_t end, size_t skip);

  const int fd_;
  const std::function<bool()> stop_requested_;
  std::string received_;
  bool ended_ = false;
};

}  // namespace tributary
