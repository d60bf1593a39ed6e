#include "client/cli/model_dir.h"

#include <algorithm>
#include <filesystem>

#include "base/outside_text.h"
#include "fmt/format.h"

namespace tributary {
namespace {

bool IsHubWord(std::string_view word) {
  const auto allowed = [](unsigned char c) { return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-'; };
  return !word.empty() && word.front() != '.' && std::all_of(word.begin(), word.end(), allowed);
}

}  // namespace

bool LooksLikeHubId(const std::string& text) {
  const size_t slash = text.find('/');
  return slash != std::string::npos && IsHubWord(std::string_view(text).substr(0, slash)) &&
         IsHubWord(std::string_view(text).substr(slash + 1));
}

absl::Status CheckModelDir(const std::string& model_dir) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::is_directory(model_dir, error)) {
    if (LooksLikeHubId(model_dir)) {
      const std::string folder = "models/" + model_dir.substr(model_dir.find('/') + 1);
      return absl::NotFoundError(
          fmt::format("there is no model folder '{0}'; if it is a model of the Hugging Face Hub, fetch it with 'hf "
                      "download {0} --local-dir {1}' and use --model {1} (with the Python package huggingface_hub that "
                      "is done here)",
                      model_dir, folder));
    }
    return absl::NotFoundError(
        fmt::format("there is no model folder '{}'; --model takes a folder with config.json and *.safetensors, for "
                    "example models/probe",
                    Printable(model_dir)));
  }
  if (!fs::exists(fs::path(model_dir) / "config.json", error)) {
    return absl::NotFoundError(
        fmt::format("'{}' has no config.json; --model takes a folder in Hugging Face format", Printable(model_dir)));
  }
  return absl::OkStatus();
}

}  // namespace tributary
