#include "client/cli/model_dir.h"

#include <algorithm>
#include <filesystem>

#include "base/outside_text.h"
#include "fmt/format.h"
#include "model/model_folder.h"

namespace tributary {
namespace {

bool IsHubWord(std::string_view word) {
  const auto allowed = [](unsigned char c) { return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-'; };
  return !word.empty() && word.front() != '.' && std::all_of(word.begin(), word.end(), allowed);
}

// A file of weights that is not there is no model of the Hub.
bool IsFileName(std::string_view word) {
  return word.ends_with(".gguf") || word.ends_with(".safetensors") || word.ends_with(".bin") || word.ends_with(".pth");
}

}  // namespace

bool LooksLikeHubId(const std::string& text) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos) return false;
  const std::string_view name = std::string_view(text).substr(slash + 1);
  return IsHubWord(std::string_view(text).substr(0, slash)) && IsHubWord(name) && !IsFileName(name);
}

std::string HubFolder(const std::string& id) { return "models/" + id; }

absl::Status CheckModelDir(const std::string& model_dir) {
  std::error_code error;
  if (std::filesystem::exists(model_dir, error) || error) return CheckModelFolder(model_dir);
  if (LooksLikeHubId(model_dir)) {
    return absl::NotFoundError(
        fmt::format("there is no model folder '{0}'; if it is a model of the Hugging Face Hub, fetch it with 'hf "
                    "download {0} --local-dir {1}' and use --model {1} (with the Python package huggingface_hub that "
                    "is done here)",
                    model_dir, HubFolder(model_dir)));
  }
  if (std::filesystem::path(model_dir).extension() == ".gguf") {
    return absl::NotFoundError(fmt::format("there is no file '{}', and GGUF is not read; {}, and use the folder",
                                           Printable(model_dir), kConvertWeights));
  }
  return absl::NotFoundError(
      fmt::format("there is no model folder '{}'; --model takes a folder with config.json and *.safetensors, for "
                  "example models/probe",
                  Printable(model_dir)));
}

}  // namespace tributary
