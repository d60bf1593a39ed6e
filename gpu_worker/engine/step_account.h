// What steps cost: added up in the sequences, for their summaries, and in the metrics.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <span>

#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/engine/step_batch.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "gpu_worker/step/decode_step.h"

namespace tributary {

class StepAccount {
 public:
  // Both outlive this; metrics may be null.
  StepAccount(const ModelLimits& model, EngineMetrics* metrics) : model_(model), metrics_(metrics) {}

  // Counts the first row of a sequence in a batch that has run. Is called before anything of its outcome is taken.
  void AddRow(Sequence& sequence, const StepRow& row) const;
  // Counts the stages of a batch whose last stage has ended.
  void AddStages(std::span<const BatchEntry> batch, const DecodeStep& step) const;
  // Counts a whole step of so many decoding sequences.
  void AddStep(size_t num_rows, double step_s) const;

 private:
  void AddQuality(const StepRow& row) const;

  const ModelLimits& model_;
  EngineMetrics* const metrics_;
};

}  // namespace tributary
