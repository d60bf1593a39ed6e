// What became of a sequence, or of one turn of it. The worker makes it; the coordinator adds what only it knows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace tributary {

struct NodeShare {
  std::string node_id;
  uint32_t shards = 0;
  uint64_t tokens = 0;  // remote tokens that this node answers for; heads apart, so nodes may share tokens
  uint64_t kv_bytes = 0;
};

struct StageTime {
  std::string stage;
  double seconds = 0;  // per decode step, mean
};

// What one KV head read and kept, over the measured steps.
struct HeadQuality {
  uint32_t layer = 0;
  uint32_t kv_head = 0;
  double read_share = 1;      // of the remote tokens
  double kept_mass_mean = 1;  // over samples and the group's query heads
  double kept_mass_min = 1;
  double output_error_mean = 0;  // likewise
  double output_error_p95 = 0;
  double output_error_max = 0;
};

struct AttentionQualitySummary {
  // The share of the remote tokens that was read, over all decode steps, layers and KV heads. What was read to measure
  // does not count.
  double remote_read_share = 1;
  uint64_t num_samples = 0;  // measured steps; if there are none, what follows says nothing
  double kept_mass_mean = 1;
  double kept_mass_min = 1;
  // Of the attention's merged output, over samples, layers and query heads (attention/output_error.h). The quantile is
  // up to 19 % above (policy/output_error_stats.h).
  double output_error_mean = 0;
  double output_error_p95 = 0;
  double output_error_max = 0;
  // (layer, KV head) that fell back: read everything at the last sample, though not by configuration, and there is a
  // floor; or were too wrong at the last sample, and there is a limit.
  uint32_t fallback_heads = 0;
  std::vector<HeadQuality> heads;  // all, by layer, then KV head; empty without samples
};

// The worker's part.
struct SequenceSummary {
  std::string finish_reason;  // "stop", "length"; empty if it failed
  uint32_t prompt_tokens = 0;
  uint32_t generated_tokens = 0;
  double prefill_s = 0;  // from the start of the turn to its first token
  double decode_s = 0;   // from there to the last
  // Prompts and answers of all turns: resident, remote, or, where each layer sees a window only, gone.
  uint64_t context_tokens = 0;
  uint64_t resident_tokens = 0;
  uint64_t remote_tokens = 0;
  double attended_tokens_mean = 0;  // per decode step; the context's if there was none
  std::string policy;
  std::optional<AttentionQualitySummary> attention;  // of a sparse policy with remote tokens to come
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
  std::vector<NodeShare> nodes;
  std::vector<StageTime> stages;
  DType remote_k_dtype = DType::kUnset;  // unset: it had no shards
  DType remote_v_dtype = DType::kUnset;
};

// A sequence that is kept after a turn, and what it may grow to.
struct KeptLease {
  std::string request_id;
  int64_t lease_ns = 0;
  uint64_t context_tokens = 0;
  uint64_t max_context_tokens = 0;

  // What new prompts and answers may have together.
  uint64_t growth_tokens() const { return max_context_tokens - context_tokens; }
};

// What a client gets at the end: the worker's summary, and three fields of the coordinator's.
struct RequestSummary {
  SequenceSummary sequence;
  double queue_s = 0;             // from the request to its placement
  double ttft_s = 0;              // from the request to the first token
  std::optional<KeptLease> kept;  // none: the sequence is gone
};

}  // namespace tributary
