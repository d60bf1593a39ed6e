#include "base/file_kind.h"

#include <sys/stat.h>

#include "base/outside_text.h"
#include "fmt/format.h"

namespace tributary {
namespace {

absl::Status Refusal(const std::string& path, mode_t mode, std::string_view expected) {
  return absl::InvalidArgumentError(fmt::format("'{}' is {}, not {}", Printable(path), FileKindName(mode), expected));
}

}  // namespace

std::string_view FileKindName(mode_t mode) {
  if (S_ISREG(mode)) return "";
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a named pipe";
  return S_ISSOCK(mode) ? "a socket" : "a device";
}

absl::Status CheckRegularFile(const std::string& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0 || S_ISREG(info.st_mode)) return absl::OkStatus();
  return Refusal(path, info.st_mode, "a regular file");
}

absl::Status CheckFileOrPipe(const std::string& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) return absl::OkStatus();
  const mode_t mode = info.st_mode;
  if (S_ISREG(mode) || S_ISFIFO(mode) || S_ISCHR(mode)) return absl::OkStatus();
  return Refusal(path, mode, "a file");
}

}  // namespace tributary
