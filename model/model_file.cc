#include "model/model_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/file_kind.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {

absl::Status ModelFileError(const std::filesystem::path& path, int error) {
  const std::string message = fmt::format("{}: cannot open: {}", path.string(), std::strerror(error));
  if (error == ENOENT || error == ENOTDIR) {
    return absl::NotFoundError(message + "; check the path of the model folder");
  }
  return absl::InvalidArgumentError(message);
}

absl::Status CheckNoLfsPointer(const std::filesystem::path& path, std::string_view bytes) {
  if (!bytes.starts_with("version https://git-lfs")) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{}: this is a Git LFS pointer of {} bytes, not the file itself; run 'git lfs pull' in the model's "
                  "folder, or fetch it with 'hf download'",
                  path.string(), bytes.size()));
}

absl::StatusOr<ModelFile> ModelFile::Open(const std::filesystem::path& path) {
  TRIBUTARY_RETURN_IF_ERROR(CheckRegularFile(path.string()));
  // Should it have become a pipe since, nobody waits for its writer.
  ModelFile file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK), 0);
  if (file.fd_ < 0) return ModelFileError(path, errno);
  struct stat info {};
  if (fstat(file.fd_, &info) != 0) return ModelFileError(path, errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is {}, not a regular file", path.string(), FileKindName(info.st_mode)));
  }
  file.bytes_ = static_cast<uint64_t>(info.st_size);
  return file;
}

ModelFile::~ModelFile() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::string> ReadModelFile(const std::filesystem::path& path, size_t max_bytes) {
  TRIBUTARY_ASSIGN_OR_RETURN(const ModelFile file, ModelFile::Open(path));
  if (file.bytes() > max_bytes) {
    return absl::InvalidArgumentError(
        fmt::format("{}: {} bytes, expected at most {}", path.string(), file.bytes(), max_bytes));
  }
  std::string text(file.bytes(), '\0');
  for (size_t have = 0; have < text.size();) {
    const ssize_t count = read(file.fd(), text.data() + have, text.size() - have);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ModelFileError(path, errno);
    if (count == 0) text.resize(have);  // it has become shorter
    have += static_cast<size_t>(count);
  }
  return text;
}

}  // namespace tributary
