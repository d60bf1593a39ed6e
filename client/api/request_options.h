// Options that several commands share: of a request, and of a local cluster.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "policy/policy_params.h"

namespace tributary {

// Flags of generate, run and score that describe one request. 0 or "" takes the coordinator's
// default.
struct RequestOptions {
  std::string prompt;
  std::string prompt_file;         // "-": standard input
  std::string prompt_tokens_file;  // ids (ParseTokenIds)
  std::string text_file;           // score
  std::string tokens_file;         // score, instead: ids
  uint32_t prefill_tokens = 0;     // score
  uint32_t max_tokens = 64;
  float temperature = 0;
  uint32_t top_k = 0;
  float top_p = 0;
  uint64_t seed = 0;
  float min_p = 0;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  float repetition_penalty = 0;
  std::vector<std::string> logit_bias;  // TOKEN=BIAS
  uint32_t window_tokens = 0;
  std::optional<uint32_t> sink_tokens;
  uint32_t block_tokens = 0;
  std::string kv_dtype;
  std::string remote_k_dtype;
  std::string remote_v_dtype;
  std::string shard_cut = "auto";
  uint32_t max_nodes = 0;
  bool all_resident = false;
  PolicyRequest policy;
  bool report_attention_heads = false;
  bool ignore_eos = false;
  uint32_t top_logprobs = 0;
  std::string request_id;            // "": the coordinator makes one
  std::string continue_request_id;   // generate: the kept sequence that the prompt is appended to
  double keep_s = 0;                 // generate: 0 = the sequence is not kept
  double max_stall_s = 0;            // 0: the cluster's
  uint64_t keep_context_tokens = 0;  // prompts and answers of all turns
  bool json = false;

  std::string tokenizer_dir;       // "": the model's folder, if it has a tokenizer; else tokens are bytes
  std::string python;              // that runs the tokenizer; "": the one that is found
  std::vector<std::string> stops;  // texts that end the answer, and are not part of it
  bool quiet = false;              // standard output has the answer alone
};

// A cluster of local processes. 0 or "" leaves the server's default.
struct ClusterOptions {
  std::string model_dir;
  std::string load_format;  // of the GPU worker; empty = its default
  uint32_t cpu_nodes = 2;
  std::string listen = "127.0.0.1:0";           // of the coordinator
  uint64_t kv_pool_bytes = 0;                   // per CPU node
  std::vector<std::string> devices = {"host"};  // a GPU worker for each: host, cuda, cuda:N
  std::string compute_dtype;                    // empty: the worker's default
  std::string weight_dtype;                     // likewise
  uint64_t resident_pool_bytes = 0;
  uint32_t worker_threads = 0;
  uint32_t node_threads = 0;
  uint32_t max_batch = 0;
  uint32_t max_prefill_tokens = 0;
  uint32_t metrics_base_port = 0;  // 0: free ports; else see MetricsPort() (client/cli/local_cluster.h)
  std::string transport_tls;
  std::string trace_file;
  std::string log_dir;
  std::string log_level = "info";
  std::string port_file;  // cluster up: where to write the addresses once the cluster is ready
};

}  // namespace tributary
