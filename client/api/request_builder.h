// Makes a GenerateSpec, and then its message, out of the command line's options and of tokens
// (client/api/request_input.h reads them).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/api/request_options.h"
#include "cluster/generate_request.h"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

// Sampling, placement, policy, ignore_eos, and what is kept and continued.
absl::Status FillCommon(const RequestOptions& options, GenerateSpec& spec);

// INVALID_ARGUMENT, with `instead` for advice, unless the vocabulary is the 256 bytes.
absl::Status CheckByteVocab(uint32_t vocab_size, const char* instead);

absl::StatusOr<v1::GenerateRequest> BuildGenerateRequest(const RequestOptions& options,
                                                         std::vector<uint32_t> prompt_tokens);
// Prompt: the first prefill_tokens of `tokens`; the rest is forced. INVALID_ARGUMENT if there is no rest.
absl::StatusOr<v1::GenerateRequest> BuildScoreRequest(const RequestOptions& options,
                                                      const std::vector<uint32_t>& tokens);

}  // namespace tributary
