#include "model/checkpoint.h"

#include <algorithm>

#include "absl/status/status.h"
#include "base/status.h"
#include "fmt/format.h"
#include "model/json_text.h"
#include "model/model_folder.h"

namespace tributary {
namespace {

using nlohmann::json;

constexpr size_t kMaxIndexBytes = 64u << 20;
constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

bool Exists(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

// A shard is a plain file name: nothing that could lead out of the folder.
bool IsPlainFileName(const std::string& name) {
  return name.ends_with(".safetensors") && name.find('/') == std::string::npos &&
         name.find('\\') == std::string::npos && name.find('\0') == std::string::npos && !name.starts_with('.');
}

// Says what the folder has instead of weights that can be read.
absl::Status NoWeights(const std::filesystem::path& model_dir) {
  std::vector<std::string> shards, others;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(model_dir, error)) {
    const std::string name = entry.path().filename().string();
    const std::string extension = entry.path().extension().string();
    if (extension == ".safetensors") shards.push_back(name);
    if (extension == ".gguf" || extension == ".bin" || extension == ".pth" || extension == ".pt")
      others.push_back(name);
  }
  std::sort(shards.begin(), shards.end());
  std::sort(others.begin(), others.end());
  const std::string missing = fmt::format("{}: neither {} nor {}", model_dir.string(), kSingleFile, kIndexFile);
  if (!shards.empty()) {
    return absl::NotFoundError(fmt::format(
        "{}, but {} and {} more shards: the index that says where each tensor is is missing; fetch {} again", missing,
        shards.front(), shards.size() - 1, kIndexFile));
  }
  if (!others.empty()) {
    return absl::NotFoundError(fmt::format("{}, but {}: {}", missing, others.front(), kConvertWeights));
  }
  return absl::NotFoundError(fmt::format("{}, nor any other file of weights; fetch the model again", missing));
}

// tensor name -> shard name
absl::StatusOr<std::map<std::string, std::string>> ReadWeightMap(const std::filesystem::path& path) {
  TRIBUTARY_ASSIGN_OR_RETURN(const json index, ReadJsonFile(path, kMaxIndexBytes));
  const auto field = index.find("weight_map");
  if (field == index.end() || !field->is_object() || field->empty()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: 'weight_map' must be an object that names each tensor's file", path.string()));
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [tensor, shard] : field->items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get_ref<const std::string&>())) {
      return absl::InvalidArgumentError(
          fmt::format("{}: tensor '{}' is said to be in {}; a shard must be a .safetensors file in "
                      "the same folder",
                      path.string(), tensor, BriefJson(shard)));
    }
    weight_map.emplace(tensor, shard.get<std::string>());
  }
  return weight_map;
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::filesystem::path& model_dir) {
  Checkpoint checkpoint;
  if (Exists(model_dir / kSingleFile)) {
    checkpoint.path_ = model_dir / kSingleFile;
    TRIBUTARY_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(checkpoint.path_));
    checkpoint.files_.push_back(std::move(file));
    checkpoint.AddTensors();
    return checkpoint;
  }
  if (!Exists(model_dir / kIndexFile)) return NoWeights(model_dir);
  TRIBUTARY_RETURN_IF_ERROR(checkpoint.OpenShards(model_dir));
  return checkpoint;
}

absl::Status Checkpoint::OpenShards(const std::filesystem::path& model_dir) {
  path_ = model_dir / kIndexFile;
  TRIBUTARY_ASSIGN_OR_RETURN(const auto weight_map, ReadWeightMap(path_));
  std::map<std::string, size_t> shards;
  for (const auto& [tensor, shard] : weight_map) {
    if (shards.contains(shard)) continue;
    TRIBUTARY_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(model_dir / shard));
    shards.emplace(shard, files_.size());
    files_.push_back(std::move(file));
  }
  for (const auto& [tensor, shard] : weight_map) {
    const SafetensorsFile& file = files_[shards.at(shard)];
    const absl::StatusOr<const TensorView*> view = file.Find(tensor);
    if (!view.ok()) {
      return absl::InvalidArgumentError(
          fmt::format("{}: tensor '{}' should be in '{}', which does not hold it", path_.string(), tensor, shard));
    }
    tensors_.emplace(tensor, Located{*view, &file});
  }
  // What the index puts elsewhere is a copy that was replaced; what it does not know at all would be overlooked.
  for (const SafetensorsFile& file : files_) {
    for (const TensorView& tensor : file.tensors()) {
      if (weight_map.contains(tensor.name)) continue;
      return absl::InvalidArgumentError(fmt::format("{}: tensor '{}' is in '{}', but the index does not list it",
                                                    path_.string(), tensor.name, file.path().filename().string()));
    }
  }
  return absl::OkStatus();
}

void Checkpoint::AddTensors() {
  for (const SafetensorsFile& file : files_) {
    for (const TensorView& tensor : file.tensors()) tensors_.emplace(tensor.name, Located{&tensor, &file});
  }
}

absl::StatusOr<Checkpoint::Located> Checkpoint::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::NotFoundError(
        fmt::format("{}: tensor '{}' is missing among {} tensors", path_.string(), name, tensors_.size()));
  }
  return found->second;
}

}  // namespace tributary
