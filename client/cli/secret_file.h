// The secret of a cluster that `tributary` starts: made for it, and gone with it.
#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace tributary {

// A file with a new secret, which its owner alone may read. Removed with the object.
class NewSecretFile {
 public:
  NewSecretFile() = default;  // none
  ~NewSecretFile() { Remove(); }
  NewSecretFile(NewSecretFile&& other) noexcept : path_(std::move(other.path_)) { other.path_.clear(); }
  NewSecretFile& operator=(NewSecretFile&& other) noexcept;

  // Takes the place of a file that is there. UNAVAILABLE with path and reason.
  static absl::StatusOr<NewSecretFile> Create(const std::string& path);

  const std::string& path() const { return path_; }
  void Remove();

 private:
  std::string path_;  // "": none
};

}  // namespace tributary
