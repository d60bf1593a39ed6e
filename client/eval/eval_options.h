// What `tributary eval` is asked for, and the grid of settings that follows from it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/api/request_options.h"
#include "client/terminal/policy_flags.h"
#include "policy/policy_params.h"

namespace tributary {

// Lists span the grid; a parameter's list is used by the policies that have it. Empty: the default.
struct EvalOptions {
  ClusterOptions cluster;
  std::string coordinator;  // "": start a local cluster
  RequestOptions layout;    // sinks, block, dtype, cut, nodes

  std::vector<std::string> policies{"dense"};
  std::vector<uint32_t> window_tokens{1024};
  std::vector<ParameterAxis> parameters;

  std::string text_file;         // byte for byte: perplexity, and the needles' haystack
  std::string text_tokens_file;  // ids, for models without a byte vocabulary: perplexity only
  uint32_t prefill_tokens = 4096;
  uint32_t decode_tokens = 0;  // 0: no perplexity
  // Tokens per position whose probabilities are compared with dense's; 0: none. Absent: see FitToModel().
  std::optional<uint32_t> top_logprobs;

  uint32_t needles = 0;  // per prompt; 0: none are asked for
  std::vector<uint32_t> lengths;
  std::vector<double> depths{0.1, 0.3, 0.5, 0.7, 0.9};
  std::vector<std::string> needle_kinds{"single", "multi-key", "multi-query"};
  uint32_t queries = 4;          // of a multi-query prompt, at most as many as needles
  uint32_t questions = 1;        // prompts per kind, length and depth
  bool decode_question = false;  // the question comes token by token through the policy, not with the prefill
  bool turns = false;            // multi-query: one kept sequence, to which each question is appended
  uint64_t seed = 1;

  std::string json_file;
  std::string csv_file;
};

// One point of the grid.
struct EvalSetting {
  PolicyRequest policy;
  uint32_t window_tokens = 0;
};

// INVALID_ARGUMENT with what to do: flags that do not go together, values out of range, a parameter that no policy of
// the list has.
absl::Status CheckEval(const EvalOptions& options);

// The settings in the order in which they are run; the first is dense, the baseline. Policies outermost, then windows,
// then parameters. Errors as of CheckEval.
absl::StatusOr<std::vector<EvalSetting>> ExpandGrid(const EvalOptions& options);

}  // namespace tributary
