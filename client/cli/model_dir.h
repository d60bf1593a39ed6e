// The folder that --model names.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace tributary {

// NOT_FOUND with what to do unless it is there with a config.json; what looks like a model's name on the Hugging Face
// Hub (org/name) is told how it becomes a folder.
absl::Status CheckModelDir(const std::string& model_dir);

// "org/name": two words of letters, digits, '.', '_' and '-'.
bool LooksLikeHubId(const std::string& text);

}  // namespace tributary
