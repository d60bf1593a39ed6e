#include "client/terminal/line_reader.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/limits.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr int kPollMs = 100;

}  // namespace

std::optional<std::string> LineReader::TakeLine(size_t end, size_t skip) {
  std::string line = received_.substr(0, end);
  received_.erase(0, end + skip);
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

absl::StatusOr<std::optional<std::string>> LineReader::Read() {
  for (size_t searched = 0;;) {
    if (const size_t end = received_.find('\n', searched); end != std::string::npos) return TakeLine(end, 1);
    if (ended_) return received_.empty() ? std::nullopt : TakeLine(received_.size(), 0);
    if (received_.size() > limits::kMaxPromptBytes) {
      return absl::InvalidArgumentError(
          fmt::format("a line has more than {} bytes, which are the most that are taken", limits::kMaxPromptBytes));
    }
    searched = received_.size();
    if (stop_requested_()) return std::nullopt;
    pollfd ready{.fd = fd_, .events = POLLIN, .revents = 0};
    if (poll(&ready, 1, kPollMs) <= 0) continue;
    char buffer[1 << 12];
    const ssize_t count = read(fd_, buffer, sizeof(buffer));
    if (count < 0 && errno != EINTR && errno != EAGAIN) {
      return absl::UnavailableError(fmt::format("cannot read standard input: {}", std::strerror(errno)));
    }
    if (count == 0) ended_ = true;
    if (count > 0) received_.append(buffer, static_cast<size_t>(count));
  }
}

}  // namespace tributary
