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
#include <memory>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/engine/engine_events.h"
#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/remote/remote_nodes.h"
#include "gpu_worker/sequence/sequence_plan.h"
#include "transport/data_plane.h"

namespace tributary {

struct EngineMetrics;  // gpu_worker/remote/engine_metrics.h
class StepTrace;       // telemetry/step_trace.h

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
