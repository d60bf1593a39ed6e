// Later turns: the tokens of a turn that a kept sequence is continued with go in here.
//
//   Kept --> Appending --> Decoding
//
// They are appended as decode steps take theirs, several successive ones at a time. A chunk ends where a block leaves
// the window, so that its rows have one remote range, and the rows' K and V are all appended before any of them
// attends, each to its own slot and no further. Where chunks end depends on the sequence alone, never on what else
// runs.
//
// Owns nothing: what is appended and how far lies in each sequence. Thread-compatible.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "gpu_worker/engine/engine_events.h"
#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/engine/sequence_table.h"
#include "gpu_worker/engine/spill_pump.h"
#include "gpu_worker/engine/step_batch.h"
#include "gpu_worker/engine/token_taker.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "gpu_worker/step/decode_step.h"

namespace tributary {

class TurnAppender {
 public:
  // All outlive this; metrics may be null.
  TurnAppender(const EngineOptions& options, const SequenceTable* sequences, const RemoteNodes* nodes,
               const SpillSender* sender, SpillPump* spills, const TokenTaker* tokens, const Clock* clock,
               EngineEvents* events, EngineMetrics* metrics)
      : options_(options),
        sequences_(sequences),
        nodes_(nodes),
        sender_(sender),
        spills_(spills),
        tokens_(tokens),
        clock_(clock),
        events_(events),
        metrics_(metrics) {}

  // Begins a turn. INVALID_ARGUMENT for one that does not fit, INTERNAL for a sequence that is not kept; nothing has
  // changed then.
  absl::Status Begin(Sequence& sequence, TurnPlan turn);
  // The next chunk of each sequence that has tokens to append and room for one, and is not stalled. Others never wait
  // for a block of it to be acknowledged.
  void AddChunks(std::vector<BatchEntry>* entries);
  // A step has appended a chunk, of which `row` is the last row, number row_idx of the batch. The last token of all
  // gives the answer's first one. Logits are f32 [row][vocab_size].
  void EndChunk(const BatchEntry& entry, const StepRow& row, size_t row_idx, std::span<const float> logits);

 private:
  void ReportProgress(Sequence& sequence, int64_t now_ns);

  const EngineOptions& options_;
  const SequenceTable* const sequences_;
  const RemoteNodes* const nodes_;
  const SpillSender* const sender_;
  SpillPump* const spills_;
  const TokenTaker* const tokens_;
  const Clock* const clock_;
  EngineEvents* const events_;
  EngineMetrics* const metrics_;
};

}  // namespace tributary
