#include "rpc/security/secret_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/outside_text.h"
#include "fmt/format.h"

namespace tributary {
namespace {

absl::Status Wrong(const std::string& what, const std::string& path, const std::string& why) {
  return absl::InvalidArgumentError(fmt::format("{} '{}': {}", what, Printable(path), why));
}

// Empty, or why the file is not fit.
std::string Fault(const struct stat& info, bool is_secret, size_t max_bytes) {
  if (!S_ISREG(info.st_mode)) return "is no regular file";
  if (info.st_size == 0) return "is empty";
  if (static_cast<size_t>(info.st_size) > max_bytes) {
    return fmt::format("has {} bytes; at most {} are taken", info.st_size, max_bytes);
  }
  if (is_secret && (info.st_mode & (S_IRWXO | S_IWGRP)) != 0) {
    return fmt::format("its mode {:03o} lets others read or change it; use chmod 600 (or 640)", info.st_mode & 0777);
  }
  return "";
}

}  // namespace

absl::StatusOr<std::string> ReadSecurityFile(const std::string& what, const std::string& path, bool is_secret,
                                             size_t max_bytes) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not hold us up
  if (fd < 0) return Wrong(what, path, std::strerror(errno));
  struct stat info = {};
  std::string fault = fstat(fd, &info) == 0 ? Fault(info, is_secret, max_bytes) : std::strerror(errno);
  std::string text;
  if (fault.empty()) {
    text.resize(max_bytes + 1);
    size_t size = 0;
    ssize_t got = 0;
    while (size < text.size() && (got = read(fd, text.data() + size, text.size() - size)) > 0) {
      size += static_cast<size_t>(got);
    }
    if (got < 0) fault = std::strerror(errno);
    if (size > max_bytes) fault = fmt::format("has more than {} bytes", max_bytes);
    text.resize(size);
  }
  close(fd);
  if (!fault.empty()) return Wrong(what, path, fault);
  return text;
}

}  // namespace tributary
