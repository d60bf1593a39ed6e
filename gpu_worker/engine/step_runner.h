// Takes steps: forms batches of the sequences that decode and the chunks that are appended, runs DecodeStep over them,
// and gives each sequence its token.
//
// A sequence whose row fails (a lost node, coverage) fails with the row's status; one whose row is parked takes the
// same step again. The others keep their bits. Sequences that are stalled are left out. Owns nothing but scratch.
// Thread-compatible; nothing may add or remove sequences during a call.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/clock.h"
#include "cluster/sequence_plan.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/engine/engine_events.h"
#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/engine/sequence_table.h"
#include "gpu_worker/engine/spill_pump.h"
#include "gpu_worker/engine/step_account.h"
#include "gpu_worker/engine/step_batch.h"
#include "gpu_worker/engine/token_taker.h"
#include "gpu_worker/engine/turn_appender.h"
#include "gpu_worker/step/decode_step.h"

namespace tributary {

// What the runner works with; all outlive it.
struct StepParts {
  Device* device = nullptr;
  DecodeStep* step = nullptr;
  const SequenceTable* sequences = nullptr;
  const RemoteNodes* nodes = nullptr;
  const SpillSender* sender = nullptr;
  SpillPump* spills = nullptr;
  TurnAppender* appender = nullptr;
  const TokenTaker* tokens = nullptr;
  const StepAccount* account = nullptr;
  const Clock* clock = nullptr;
  EngineEvents* events = nullptr;
};

class StepRunner {
 public:
  StepRunner(const EngineOptions& options, const StepParts& parts) : options_(options), parts_(parts) {}

  // One step of the named sequences that decode, which began at begin_ns; chunks of turns go along. Waits for full
  // windows. Reports OnStepDone.
  void Step(const StepCommand& command, int64_t begin_ns);
  // A step of appended tokens alone. False if there were none to append; true, and nothing done, if a step has taken
  // them along since the last call.
  bool RunAppends();

 private:
  // Those of the command that can take a step now, each once, in the order of the command.
  void PickRows(const StepCommand& command);
  // Runs entries_ in batches that the device takes; the tokens of one entry stay together.
  void RunBatches(int64_t timeout_ns);
  void RunBatch(std::span<const BatchEntry> batch, int64_t timeout_ns);
  void AddRows(const BatchEntry& entry);
  // Hands the outcome of an entry on, whose first row is number row_idx of the batch.
  void EndEntry(const BatchEntry& entry, size_t row_idx, std::span<const float> logits);

  const EngineOptions& options_;
  const StepParts parts_;
  bool has_appended_ = false;  // in a step since the last RunAppends
  // These are of the step that runs.
  std::vector<BatchEntry> entries_;
  std::vector<StepRow> rows_;
  std::vector<SequenceTokens> tokens_;
};

}  // namespace tributary
