#include "client/cli/secret_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "base/random_id.h"
#include "fmt/format.h"

namespace tributary {

NewSecretFile& NewSecretFile::operator=(NewSecretFile&& other) noexcept {
  if (this != &other) {
    Remove();
    path_ = std::move(other.path_);
    other.path_.clear();
  }
  return *this;
}

absl::StatusOr<NewSecretFile> NewSecretFile::Create(const std::string& path) {
  std::array<std::byte, 32> bytes{};
  FillRandom(bytes);
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  text += '\n';
  (void)unlink(path.c_str());  // of an earlier run that was killed
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return absl::UnavailableError(fmt::format("cannot make '{}': {}", path, std::strerror(errno)));
  NewSecretFile file;
  file.path_ = path;
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int error = errno;
  close(fd);
  if (!written) return absl::UnavailableError(fmt::format("cannot write '{}': {}", path, std::strerror(error)));
  return file;
}

void NewSecretFile::Remove() {
  if (!path_.empty()) (void)unlink(path_.c_str());
  path_.clear();
}

}  // namespace tributary
