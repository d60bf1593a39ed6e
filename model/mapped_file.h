// A read-only memory map of a whole file, which processes share. One that reads what was cut off the file since ends
// (SIGBUS) with exit status 1 and a line on standard error that names it: what it computed with is gone.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <utility>

#include "absl/status/statusor.h"

namespace tributary {

class MappedFile {
 public:
  // NOT_FOUND or INVALID_ARGUMENT (not a regular file, not readable), naming the file. An empty
  // file maps to no bytes.
  static absl::StatusOr<MappedFile> Open(const std::filesystem::path& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile();

  // Stays where it is when the MappedFile moves.
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace tributary
