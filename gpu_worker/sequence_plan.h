// What a sequence is to a GPU worker: the prompt, how to sample, and where its KV lives. Made by
// the coordinator, carried by StartSequence, checked here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "attention/policy/policy_params.h"
#include "attention/shape.h"
#include "attention/shard_spec.h"
#include "base/dtype.h"
#include "base/ids.h"
#include "gpu_worker/sampler.h"
#include "gpu_worker/window_cache.h"

namespace tributary {

// A CPU attention node as the coordinator knows it.
struct NodeEndpoint {
  std::string node_id;
  uint64_t incarnation = 0;
  std::string control_address;  // host:port of its gRPC server

  friend bool operator==(const NodeEndpoint&, const NodeEndpoint&) = default;
};

struct SequenceRoute {
  ShardSpec shard;
  NodeEndpoint node;
};

struct SequencePlan {
  SequenceId sequence_id;
  Epoch epoch;
  std::vector<uint32_t> prompt_tokens;
  uint32_t max_tokens = 0;
  SamplingParams sampling;
  WindowLayout layout;
  DType kv_dtype = DType::kUnset;  // resident, and on the way to shards; those may store another
  std::vector<uint32_t> stop_tokens;
  // Token i of the answer is forced_tokens[i], whatever the model would pick; a forced token never
  // stops the sequence.
  std::vector<uint32_t> forced_tokens;
  PolicyParams policy;
  uint32_t top_logprobs = 0;          // alternatives reported with each token
  std::vector<SequenceRoute> routes;  // empty: all resident

  // Tokens that the KV may grow to: the last token of the answer is never fed back.
  uint64_t max_context_tokens() const { return prompt_tokens.size() + max_tokens - 1; }
};

// What of the model a plan is checked against.
struct ModelLimits {
  AttentionShape shape;
  uint32_t num_layers = 0;
  uint32_t vocab_size = 0;
  uint64_t max_context_tokens = 0;  // max_position_embeddings; 0 = no limit
  uint32_t max_partial_slots = 0;   // token stripes that one row's merge reads
};

// INVALID_ARGUMENT or UNIMPLEMENTED (policy), with the offending values. When it is OK, every
// remote token of every layer and KV head has exactly one shard with room for it.
absl::Status Validate(const SequencePlan& plan, const ModelLimits& model);

}  // namespace tributary
