#include "base/whole_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "base/outside_text.h"
#include "fmt/format.h"

namespace tributary {
namespace {

absl::Status CannotWrite(const std::string& path, int error) {
  return absl::UnavailableError(fmt::format("cannot write '{}': {}", Printable(path), std::strerror(error)));
}

// True for devices, pipes and sockets: there is nothing to put in their place.
bool IsSpecial(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
}

// The file itself, through symbolic links; `path` if there is none yet.
std::string TargetOf(const std::string& path) {
  std::error_code error;
  const std::filesystem::path target = std::filesystem::canonical(path, error);
  return error ? path : target.string();
}

std::string PartOf(const std::string& target) { return fmt::format("{}.{}.part", target, getpid()); }

// 0, or the errno.
int WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

// Closes `fd` in any case. A disk that is full may say so only when the data get there.
int WriteSyncClose(int fd, std::string_view text) {
  int error = WriteAll(fd, text);
  if (error == 0 && fsync(fd) != 0 && errno != EINVAL && errno != EROFS) error = errno;
  if (close(fd) != 0 && error == 0) error = errno;
  return error;
}

}  // namespace

absl::Status WriteWholeFile(const std::string& path, std::string_view text) {
  if (IsSpecial(path)) {
    const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return CannotWrite(path, errno);
    const int error = WriteSyncClose(fd, text);
    return error == 0 ? absl::OkStatus() : CannotWrite(path, error);
  }
  const std::string target = TargetOf(path);
  const std::string part = PartOf(target);
  const int fd = open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return CannotWrite(path, errno);
  int error = WriteSyncClose(fd, text);
  if (error == 0 && std::rename(part.c_str(), target.c_str()) != 0) error = errno;
  if (error == 0) return absl::OkStatus();
  std::remove(part.c_str());
  return CannotWrite(path, error);
}

absl::Status CheckWritable(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return CannotWrite(path, EISDIR);
  if (IsSpecial(path)) {
    return access(path.c_str(), W_OK) == 0 ? absl::OkStatus() : CannotWrite(path, errno);
  }
  const std::string part = PartOf(TargetOf(path));
  const int fd = open(part.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return CannotWrite(path, errno);
  close(fd);
  std::remove(part.c_str());
  return absl::OkStatus();
}

}  // namespace tributary
