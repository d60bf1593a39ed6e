// All tensors of a model folder: model.safetensors, or the shards that model.safetensors.index.json
// lists.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/safetensors.h"

namespace tributary {

// Immutable once opened; thread-safe. Views stay valid when it is moved.
class Checkpoint {
 public:
  // NOT_FOUND when the folder has neither file, or a shard is missing; INVALID_ARGUMENT when a
  // shard's name leaves the folder, or when index and shards disagree about where a tensor is.
  static absl::StatusOr<Checkpoint> Open(const std::filesystem::path& model_dir);

  struct Located {
    const TensorView* tensor = nullptr;
    const SafetensorsFile* file = nullptr;
  };

  // NOT_FOUND naming folder and tensor.
  absl::StatusOr<Located> Find(std::string_view name) const;
  const std::map<std::string, Located, std::less<>>& tensors() const { return tensors_; }
  // The file or index that was read, for messages.
  const std::filesystem::path& path() const { return path_; }

 private:
  absl::Status OpenShards(const std::filesystem::path& model_dir);
  void AddTensors();

  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Located, std::less<>> tensors_;
};

}  // namespace tributary
