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
#include "rpc/security/security_options.h"

namespace tributary {

// Lists span the grid; a parameter's list is used by the policies that have it. Empty: the default.
struct EvalOptions {
  ClusterOptions cluster;
  std::string coordinator;  // "": start a local cluster
  TlsFiles tls;             // of the connection to it
  RequestOptions layout;    // sinks, block, dtype, cut, nodes

  std::vector<std::string> policies{"dense"};
  std::vector<uint32_t> window_tokens{1024};
  std::vector<ParameterAxis> parameters;

  std::vector<std::string> text_files;         // perplexity, drift, and what the tasks' prompts are cut from
  std::vector<std::string> text_tokens_files;  // ids instead, which need no tokenizer: perplexity and drift only
  std::string tokenizer_dir;                   // "": the model's folder if it has a tokenizer, else tokens are bytes
  std::string chat_template = "auto";          // of the tasks' prompts, if the folder has one; or "none"
  std::string python;                          // that runs the tokenizer; "": DefaultPython()
  uint32_t prefill_tokens = 4096;
  uint32_t decode_tokens = 0;  // 0: no perplexity
  // Tokens per position whose probabilities are compared with dense's; 0: none. Absent: see FitToModel().
  std::optional<uint32_t> top_logprobs;

  uint32_t drift_tokens = 0;  // that dense generates, and every setting is forced through; 0: none

  std::vector<uint32_t> lengths;  // of the tasks' prompts; empty: no tasks
  uint32_t needles = 0;           // per prompt
  uint32_t fields = 6;            // of an extraction's record
  std::vector<double> depths{0.1, 0.3, 0.5, 0.7, 0.9};
  std::vector<std::string> tasks{"single", "multi-key", "multi-query"};
  uint32_t queries = 4;          // of a multi-query prompt, at most as many as needles
  uint32_t questions = 1;        // prompts per task, length and depth
  bool decode_question = false;  // the question comes token by token through the policy, not with the prefill
  bool turns = false;            // multi-query: one kept sequence, to which each question is appended
  uint64_t seed = 1;

  uint32_t retries = 2;  // of a failed request
  bool restart = false;  // drops the answers of a run of the same json_file that has not ended

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
// then parameters; settings that differ only in what their policy does not look at come once (PolicyRules::uses),
// without it. Errors as of CheckEval.
absl::StatusOr<std::vector<EvalSetting>> ExpandGrid(const EvalOptions& options);

}  // namespace tributary
