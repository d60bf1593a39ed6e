// What the engine reports, to whoever drives it: tokens, progress, and what became of each sequence.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/dtype.h"
#include "base/ids.h"
#include "gpu_worker/sequence/sampler.h"
#include "gpu_worker/step/attention_quality.h"

namespace tributary {

struct SequenceTokens {
  SequenceId sequence_id;
  std::vector<uint32_t> tokens;
  std::vector<float> logprobs;  // natural log, under the model (temperature 1)
  std::vector<TopTokens> top;   // of each token, if the plan asks for them
};

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

// What became of a sequence, or of one turn of it. Queueing and time to first token are the coordinator's to add.
struct SequenceSummary {
  std::string finish_reason;  // "stop", "length"; empty if it failed
  uint32_t prompt_tokens = 0;
  uint32_t generated_tokens = 0;
  double prefill_s = 0;         // from Start() or Continue() to the first token
  double decode_s = 0;          // from there to the last
  uint64_t context_tokens = 0;  // prompts and answers of all turns = resident + remote
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

// Called from inside Start(), Continue(), Step(), Stop() and RunOnce(); may not call the engine back.
class EngineEvents {
 public:
  virtual ~EngineEvents() = default;
  // Of appended tokens, layers_done is 0 to the end.
  virtual void OnPrefillProgress(SequenceId sequence, uint32_t layers_done, uint32_t num_layers, double fraction) = 0;
  // The first token of a turn: from now on the sequence may be stepped.
  virtual void OnTokens(const SequenceTokens& tokens) = 0;
  // One entry per sequence that got a token, in the order of the command.
  virtual void OnStepDone(StepId step, std::span<const SequenceTokens> tokens, double step_s) = 0;
  // The engine has forgotten the sequence. CANCELLED after Stop(). `failed_node_id` is empty unless
  // a node is to blame. A sequence that finishes in a step ends after that step's OnStepDone.
  virtual void OnEnded(SequenceId sequence, const absl::Status& status, const std::string& failed_node_id,
                       const SequenceSummary& summary) = 0;
  // A turn has ended well, and its sequence stays, as its plan asked. Comes when OnEnded would.
  virtual void OnKept(SequenceId sequence, const SequenceSummary& summary) {}
};

// A sequence's progress is reported no more often than this, except where a layer ends.
inline constexpr int64_t kProgressIntervalNs = 250 * kNsPerMs;

}  // namespace tributary
