// The GPU worker's core: owns the sequences, prefills them, and takes decode steps. No gRPC, no
// threads: one loop calls it.
//
//   while (running) {
//     if a command waits: engine.Start(plan) | Continue(plan) | Step(step) | Stop(sequence)
//     if (!engine.RunOnce() && no command waited) data_plane->WaitForEvent(kNsPerMs);
//   }
//
// Step() returns when the step is done; RunOnce() does one small piece of prefill and everything
// that came from the nodes, so that a step never waits long behind a prefill.
//
// A sequence that is kept after its answer may be continued: its new tokens are appended in small
// chunks, one in each step that is taken for others, or by RunOnce() when there is none.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/remote/remote_nodes.h"
#include "gpu_worker/sequence/sequence_plan.h"
#include "gpu_worker/step/attention_quality.h"
#include "transport/data_plane.h"
#include "transport/idle_strategy.h"

namespace tributary {

struct EngineMetrics;  // gpu_worker/remote/engine_metrics.h
class StepTrace;       // telemetry/step_trace.h

struct EngineOptions {
  ModelLimits model;  // max_partial_slots is taken from the device's limits
  float softmax_scale = 0;
  RemoteNodesOptions nodes;
  uint64_t spill_window_bytes = 16u << 20;  // unacknowledged, per node
  uint32_t spill_frame_bytes = 512u << 10;  // about the largest spill frame
  int64_t spill_timeout_ns = 10 * kNsPerS;  // without an acknowledgement
  int64_t step_timeout_ns = 10 * kNsPerS;   // for steps that state none
  IdleOptions idle;                         // how a step waits for nodes
  // Appended tokens of one sequence in one step, at most max_batch: as many as the nodes' kernels
  // take at once.
  uint32_t append_chunk_tokens = 8;
  // Sees every row's logits before they are sampled (tests): f32 [vocab_size], of the token at
  // answer index `index`.
  std::function<void(SequenceId sequence, uint64_t index, std::span<const float> logits)> logits_observer;
};

struct StepCommand {
  StepId step_id;
  int64_t timeout_ns = 0;  // 0: EngineOptions::step_timeout_ns
  std::vector<SequenceId> sequence_ids;
};

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

// Thread-compatible: one thread makes every call.
class DecodeEngine {
 public:
  // INVALID_ARGUMENT for options that contradict each other. All pointers but `metrics` and `trace`
  // are needed; they outlive the engine.
  static absl::StatusOr<std::unique_ptr<DecodeEngine>> Create(const EngineOptions& options, Device* device,
                                                              DataPlane* data_plane, NodeConnector* connector,
                                                              const Clock* clock, EngineEvents* events,
                                                              EngineMetrics* metrics = nullptr,
                                                              StepTrace* trace = nullptr);
  ~DecodeEngine();  // releases the sequences without events
  DecodeEngine(const DecodeEngine&) = delete;
  DecodeEngine& operator=(const DecodeEngine&) = delete;

  // Takes a sequence, reserves its resident memory, pairs with its nodes, and queues its prefill.
  // An error comes as OnEnded. A sequence that is there already with this or a later epoch is left
  // alone; one with an earlier epoch is replaced without an event.
  void Start(SequencePlan plan);
  // Begins the next turn of a kept sequence: its tokens, and before them the last one of the answer
  // before, are appended, and OnTokens brings the first token of the answer. An error ends the
  // sequence (OnEnded); an unknown one is answered with NOT_FOUND.
  void Continue(ContinuePlan plan);
  // Takes one decode step of the named sequences; those that are not decoding are skipped. Returns
  // after OnStepDone.
  void Step(const StepCommand& command);
  // Ends a sequence (OnEnded, CANCELLED). Unknown sequences and later epochs are left alone. Epoch
  // 0: any.
  void Stop(SequenceId sequence, Epoch epoch = Epoch{});
  void StopAll();

  // Handles what came and does one piece of work. False if there was nothing to do: the caller may
  // sleep.
  bool RunOnce();

  uint32_t num_sequences() const;  // kept ones included

 private:
  struct Impl;
  explicit DecodeEngine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tributary
