#include "client/terminal/output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace tributary {
namespace {

int out_errno = 0;  // of the first failed write to standard output

}  // namespace

bool WriteOut(std::string_view text) {
  if (out_errno != 0) return false;
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    out_errno = errno == 0 ? EIO : errno;
  }
  return out_errno == 0;
}

void WriteErr(std::string_view text) {
  (void)!std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

bool OutReaderHasGone() { return out_errno == EPIPE; }

absl::Status OutStatus() {
  if (out_errno == 0) return absl::OkStatus();
  return absl::UnavailableError(fmt::format("cannot write to standard output: {}", std::strerror(out_errno)));
}

}  // namespace tributary
