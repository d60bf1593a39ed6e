#include "model/model_folder.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/outside_text.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr std::string_view kGguf = ".gguf";

// False, too, where that cannot be seen: opening it will say why.
bool IsMissing(const std::filesystem::path& path) {
  std::error_code error;
  return !std::filesystem::exists(path, error) && !error;
}

// The first by name; "" if there is none.
std::string FirstGguf(const std::filesystem::path& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == kGguf) files.push_back(entry.path().filename().string());
  }
  return files.empty() ? "" : *std::min_element(files.begin(), files.end());
}

absl::Status NoFolder(const std::filesystem::path& path) {
  const std::string shown = Printable(path.string());
  if (path.extension() == kGguf) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is a GGUF file, which is not read; {}, and use the folder", shown, kConvertWeights));
  }
  return absl::InvalidArgumentError(
      fmt::format("'{}' is a file; a model is a folder with config.json and *.safetensors, so use the folder that it "
                  "lies in",
                  shown));
}

absl::Status NoConfig(const std::filesystem::path& model_dir) {
  const std::string shown = Printable(model_dir.string());
  if (const std::string gguf = FirstGguf(model_dir); !gguf.empty()) {
    return absl::NotFoundError(
        fmt::format("'{}' has no config.json, but {}; {}", shown, Printable(gguf), kConvertWeights));
  }
  return absl::NotFoundError(fmt::format("'{}' has no config.json; a model is a folder in Hugging Face format", shown));
}

}  // namespace

absl::Status CheckModelFolder(const std::filesystem::path& model_dir) {
  std::error_code error;
  if (IsMissing(model_dir)) {
    return absl::NotFoundError(fmt::format("there is no model folder '{}'", Printable(model_dir.string())));
  }
  const bool is_folder = std::filesystem::is_directory(model_dir, error);
  if (!is_folder && !error) return NoFolder(model_dir);
  if (std::filesystem::exists(model_dir / "quantize_config.json", error)) {
    return absl::UnimplementedError(
        fmt::format("'{}' has quantize_config.json: its weights are quantized by AutoGPTQ (GPTQ), which is not read; "
                    "load the model with Transformers, dequantize it and save it, or take the unquantized folder that "
                    "it was made of",
                    Printable(model_dir.string())));
  }
  return IsMissing(model_dir / "config.json") ? NoConfig(model_dir) : absl::OkStatus();
}

}  // namespace tributary
