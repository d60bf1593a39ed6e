// A request and what is reported about it, in the house's own types
// (proto/tributary/v1/coordinator.proto has the words).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/ids.h"
#include "policy/policy_params.h"

namespace tributary {

struct SamplingOptions {
  float temperature = 0;  // 0 = greedy
  uint32_t top_k = 0;     // 0 = off
  float top_p = 0;        // 0 or 1 = off
  uint64_t seed = 0;
};

enum class Cut { kAuto = 0, kTokens = 1, kHeads = 2, kBoth = 3 };
std::string_view CutName(Cut cut);  // "auto", "tokens", "heads", "both"

// How a request's KV is laid out. After ResolvePlacement() no field is left to a default.
struct PlacementOptions {
  uint32_t window_tokens = 0;
  uint32_t sink_tokens = 0;
  bool has_sink_tokens = false;
  uint32_t block_tokens = 0;
  DType kv_dtype = DType::kUnset;        // resident, and on the way to shards
  DType remote_k_dtype = DType::kUnset;  // in shards; unset in defaults: kv_dtype
  DType remote_v_dtype = DType::kUnset;
  Cut cut = Cut::kAuto;
  uint32_t max_nodes = 0;  // 0 = all
  bool all_resident = false;
};

// Whether a sequence stays after its answer.
struct KeepOptions {
  int64_t lease_ns = 0;             // from the end of an answer on; 0: it does not stay
  uint64_t max_context_tokens = 0;  // prompts and answers of all turns; of a continuation: 0 or as it was

  bool asked() const { return lease_ns != 0; }
};

struct GenerateSpec {
  std::vector<uint32_t> prompt_tokens;
  uint32_t max_tokens = 0;
  SamplingOptions sampling;
  PlacementOptions placement;
  std::vector<uint32_t> stop_tokens;
  std::vector<uint32_t> forced_tokens;
  PolicyRequest policy;          // as asked
  PolicyParams resolved_policy;  // set at admission
  std::string request_id;
  bool ignore_eos = false;
  uint32_t top_logprobs = 0;  // alternatives reported with each token
  KeepOptions keep;
  std::string continue_request_id;  // "" = a new sequence
  bool report_attention_heads = false;
};

struct TokenChunk {
  // The likeliest tokens of one position, likeliest first.
  struct Top {
    std::vector<uint32_t> tokens;
    std::vector<float> logprobs;
  };

  SequenceId sequence_id;
  std::vector<uint32_t> tokens;
  std::vector<float> logprobs;  // natural log
  std::vector<Top> top;         // of each token, if asked for
};

// What became of a request that ended well.
struct RequestSummary {
  struct NodeShare {
    std::string node_id;
    uint32_t shards = 0;
    uint64_t tokens = 0;
    uint64_t kv_bytes = 0;
  };
  struct StageTime {
    std::string stage;
    double seconds = 0;  // per decode step, mean
  };

  struct Kept {
    std::string request_id;
    int64_t lease_ns = 0;
    uint64_t context_tokens = 0;
    uint64_t max_context_tokens = 0;

    // What new prompts and answers may have together.
    uint64_t growth_tokens() const { return max_context_tokens - context_tokens; }
  };
  // As the message of this name.
  struct HeadQuality {
    uint32_t layer = 0;
    uint32_t kv_head = 0;
    double read_share = 1;
    double kept_mass_mean = 1;
    double kept_mass_min = 1;
  };
  struct AttentionQuality {
    double remote_read_share = 1;
    uint64_t samples = 0;
    double kept_mass_mean = 1;
    double kept_mass_min = 1;
    uint32_t fallback_heads = 0;
    std::vector<HeadQuality> heads;
  };

  std::string finish_reason;
  uint32_t prompt_tokens = 0;
  uint32_t generated_tokens = 0;
  double queue_s = 0;
  double prefill_s = 0;
  double ttft_s = 0;
  double decode_s = 0;
  uint64_t context_tokens = 0;
  uint64_t resident_tokens = 0;
  uint64_t remote_tokens = 0;
  double attended_tokens_mean = 0;
  std::string policy;
  std::optional<AttentionQuality> attention;  // of a sparse policy
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
  std::vector<NodeShare> nodes;
  std::vector<StageTime> stages;
  DType remote_k_dtype = DType::kUnset;  // unset: nothing was remote
  DType remote_v_dtype = DType::kUnset;
  std::optional<Kept> kept;
};

}  // namespace tributary
