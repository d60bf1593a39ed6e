// JSON from files that we did not write: no exception leaves, no duplicate key is overlooked. For
// the .cc files of model/.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tributary {

// Parses one JSON object. INVALID_ARGUMENT, beginning with `what` (the file's name), when the text
// is malformed, is not an object, nests deeper than 16, or names a key twice.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, const std::string& what);

// The same for a whole file; NOT_FOUND without it, INVALID_ARGUMENT when it is larger than
// `max_bytes`, or a Git LFS pointer.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::filesystem::path& path, size_t max_bytes);

// A value for an error message, cut to a readable length.
std::string BriefJson(const nlohmann::json& value);

}  // namespace tributary
