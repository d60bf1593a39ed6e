// First turns: one prompt at a time is prefilled, the others wait in order of arrival.
//
//   Queued --> Prefilling --> Draining --> Decoding
//
// Owns the prefill that runs, and with it the device's prefill memory. A sequence belongs to the queue from Push()
// until its prefill has ended or Forget(). An error of the device fails the sequence. Thread-compatible.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>

#include "base/clock.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/engine/engine_events.h"
#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/engine/sequence_table.h"
#include "gpu_worker/engine/token_taker.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "gpu_worker/spill/prefill_job.h"
#include "gpu_worker/spill/spill.h"

namespace tributary {

class PrefillQueue {
 public:
  // All outlive this; metrics may be null.
  PrefillQueue(const EngineOptions& options, Device* device, const RemoteNodes* nodes, SpillSender* spill,
               const TokenTaker* tokens, const Clock* clock, EngineEvents* events, EngineMetrics* metrics)
      : options_(options),
        device_(device),
        nodes_(nodes),
        spill_(spill),
        tokens_(tokens),
        clock_(clock),
        events_(events),
        metrics_(metrics) {}

  // REQUIRES: queued, and stays where it is until it has left the queue.
  void Push(Sequence* sequence) { queue_.push_back(sequence); }
  // The sequence ends: it leaves the queue, and if its prefill runs that ends, too. Unknown ones are ignored.
  void Forget(const Sequence& sequence);
  // Does one unit of the first sequence's prefill, whose first token is taken at the end of it. Sequences whose nodes
  // are not connected yet are passed over. False if there was nothing to do.
  bool Run();
  // Sequences that are prefilled and whose shards have acknowledged everything begin to decode, and report their first
  // tokens. False if there was none.
  bool BeginDecoding(const SequenceTable& sequences);

 private:
  void Begin(Sequence& sequence);
  // No node of it is still to be connected.
  bool HasItsNodes(const Sequence& sequence) const;
  void ReportProgress(SequenceId id);

  const EngineOptions& options_;
  Device* const device_;
  const RemoteNodes* const nodes_;
  SpillSender* const spill_;
  const TokenTaker* const tokens_;
  const Clock* const clock_;
  EngineEvents* const events_;
  EngineMetrics* const metrics_;
  std::deque<Sequence*> queue_;  // the front one is being prefilled, if there is a job
  std::unique_ptr<PrefillJob> job_;
  int64_t progress_ns_ = 0;       // of the last progress event
  uint32_t progress_layers_ = 0;  // likewise
};

}  // namespace tributary
