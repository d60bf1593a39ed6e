// The folder that --model names.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace tributary {

// OK, or what is wrong and what to do (model/model_folder.h). NOT_FOUND for what is not there: what looks like a
// model's name on the Hugging Face Hub (org/name) is told how it becomes a folder.
absl::Status CheckModelDir(const std::string& model_dir);

// "org/name": two words of letters, digits, '.', '_' and '-', the second of which does not end as a file of weights
// does. Whether there is a folder of this name is for others to see.
bool LooksLikeHubId(const std::string& text);

// Where a model of the Hub lies below the current folder: models/org/name.
std::string HubFolder(const std::string& id);

}  // namespace tributary
