// What a model's folder is, before any of its files is read: what is no folder in Hugging Face format is told apart.
#pragma once

#include <filesystem>
#include <string_view>

#include "absl/status/status.h"

namespace tributary {

// What to do with weights in another format than safetensors.
inline constexpr std::string_view kConvertWeights =
    "convert the weights to safetensors (Transformers reads .bin and, with gguf_file=, .gguf; save_pretrained writes "
    "safetensors)";

// OK for a folder with config.json, and without the quantize_config.json that AutoGPTQ leaves beside its weights.
// NOT_FOUND: there is nothing, or no config.json in it; INVALID_ARGUMENT: a file instead of a folder; UNIMPLEMENTED:
// AutoGPTQ's. Each says what to do, and how to convert what is GGUF.
absl::Status CheckModelFolder(const std::filesystem::path& model_dir);

}  // namespace tributary
