// Models of the Hugging Face Hub by name, where the Python package huggingface_hub and a network are there.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace tributary {

// A model_dir that is no folder but looks like a model's name on the Hub (org/name) is fetched into models/org/name
// below the current folder, unless that is there, and becomes that folder. What was not fetched to its end lies in
// models/org/.name.part, where the next call goes on. Any other model_dir stays as it is, and so does a name that
// cannot be fetched because the Python has no huggingface_hub: CheckModelDir() says then what to do. UNAVAILABLE if
// fetching failed: the child's own words are on stderr. `python`: empty for the one beside the binary, or python3.
absl::Status FetchHubModel(const std::string& python, std::string& model_dir);

}  // namespace tributary
