// Makes a GenerateSpec, and then its message, out of the command line's options: reads prompts, turns text into tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/api/request_options.h"
#include "cluster/generate_request.h"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

// The whole file; "-" is standard input. NOT_FOUND with the path if it cannot be read;
// INVALID_ARGUMENT beyond limits::kMaxPromptBytes.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

// Reads what the options name, so that a wrong path is told before a cluster starts. Not standard
// input.
absl::Status CheckInputFiles(const RequestOptions& options);

// Sampling, placement, policy, ignore_eos, and what is kept and continued.
absl::Status FillCommon(const RequestOptions& options, GenerateSpec& spec);

// INVALID_ARGUMENT, with `instead` for advice, unless the vocabulary is the 256 bytes.
absl::Status CheckByteVocab(uint32_t vocab_size, const char* instead);

// "12 7 9": INVALID_ARGUMENT with the offending word and its place.
absl::StatusOr<std::vector<uint32_t>> ParseTokenIds(const std::string& text);

// `vocab_size` of the cluster's model: text is allowed only if its tokens are the 256 bytes.
absl::StatusOr<v1::GenerateRequest> BuildGenerateRequest(const RequestOptions& options, uint32_t vocab_size);
// Prompt: the first prefill_tokens of the text; the rest is forced.
absl::StatusOr<v1::GenerateRequest> BuildScoreRequest(const RequestOptions& options, uint32_t vocab_size);

}  // namespace tributary
