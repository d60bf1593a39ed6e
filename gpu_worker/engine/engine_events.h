// What the engine reports, to whoever drives it: tokens, progress, and what became of each sequence.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/ids.h"
#include "cluster/sequence_summary.h"
#include "cluster/worker_event.h"

namespace tributary {

// Called from inside Start(), Continue(), Step(), Stop() and RunOnce(); may not call the engine back.
class EngineEvents {
 public:
  virtual ~EngineEvents() = default;
  // While tokens are appended, layers_done is 0 to the end.
  virtual void OnPrefillProgress(SequenceId sequence, uint32_t layers_done, uint32_t num_layers, double fraction) = 0;
  // The first token of a turn: from now on the sequence may be stepped.
  virtual void OnTokens(const SequenceTokens& tokens) = 0;
  // One entry per sequence that got a token, in the order of the command.
  virtual void OnStepDone(StepId step, std::span<const SequenceTokens> tokens, double step_s) = 0;
  // The engine has forgotten the sequence. CANCELLED after Stop(). `failed_node_id` is empty unless
  // a node is to blame. A sequence that finishes in a step ends after that step's OnStepDone.
  virtual void OnEnded(SequenceId sequence, const absl::Status& status, const std::string& failed_node_id,
                       const SequenceSummary& summary) = 0;
  // The sequence waits for a node that is silent, and goes on by itself once it is heard again; steps may leave it out
  // meanwhile. Not repeated until OnResumed; OnEnded ends a stall, too.
  virtual void OnStalled(SequenceId sequence, const std::string& node_id) {}
  virtual void OnResumed(SequenceId sequence) {}
  // A turn has ended well, and its sequence stays, as its plan asked. Comes when OnEnded would.
  virtual void OnKept(SequenceId sequence, const SequenceSummary& summary) {}
};

// A sequence's progress is reported no more often than this, except where a layer ends.
inline constexpr int64_t kProgressIntervalNs = 250 * kNsPerMs;

}  // namespace tributary
