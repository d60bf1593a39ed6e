// Opening and reading the files of a model's folder. For the .cc files of model/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tributary {

// A regular file, open for reading; closed with the object.
class ModelFile {
 public:
  // NOT_FOUND or INVALID_ARGUMENT, naming the file. A pipe, a device or a folder is refused by name, and not waited
  // for.
  static absl::StatusOr<ModelFile> Open(const std::filesystem::path& path);

  ModelFile(ModelFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)), bytes_(other.bytes_) {}
  ~ModelFile();

  int fd() const { return fd_; }
  uint64_t bytes() const { return bytes_; }  // when it was opened

 private:
  ModelFile(int fd, uint64_t bytes) : fd_(fd), bytes_(bytes) {}

  int fd_;
  uint64_t bytes_;
};

// The system's `error` (errno) of the file.
absl::Status ModelFileError(const std::filesystem::path& path, int error);

// INVALID_ARGUMENT, with what to do, for what Git leaves in place of a large file that was not fetched. `bytes`: all of
// the file.
absl::Status CheckNoLfsPointer(const std::filesystem::path& path, std::string_view bytes);

// All of it. Beside Open()'s errors: INVALID_ARGUMENT with both sizes for one of more than `max_bytes`.
absl::StatusOr<std::string> ReadModelFile(const std::filesystem::path& path, size_t max_bytes);

}  // namespace tributary
