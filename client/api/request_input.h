// What a request is made of, read once: texts, and files with token ids. Pipes and standard input work as files do.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/api/request_options.h"

namespace tributary {

struct RequestInput {
  std::string name;  // of the file, or of the flag
  bool is_text = false;
  std::string text;              // if it is one: bytes as they came
  std::vector<uint32_t> tokens;  // else
};

// The whole file; "-" is standard input. Waits for as long as who writes a pipe does. NOT_FOUND with the path if it
// cannot be read; INVALID_ARGUMENT beyond limits::kMaxPromptBytes, UNAVAILABLE if reading fails halfway.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

// "12 7 9", or as JSON: "[12, 7, 9]", or an object with such a list as "tokens", as --json prints it. INVALID_ARGUMENT
// with the offending word and its place.
absl::StatusOr<std::vector<uint32_t>> ParseTokenIds(const std::string& text);

// What the options name as prompt, or as what is to be scored. A continuation may have nothing: tokens, and none of
// them. INVALID_ARGUMENT for what is empty; errors as of ReadTextFile() and ParseTokenIds().
absl::StatusOr<RequestInput> ReadRequestInput(const RequestOptions& options);

}  // namespace tributary
