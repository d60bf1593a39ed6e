// First turns: prompts are prefilled, several at a time, a unit of one after a unit of another.
//
//   Queued --> Prefilling --> Draining --> Decoding
//
// Two prompts share the device by halves of the estimated work: the one that came first, and the one with the least
// left to do. So a short prompt does not wait for the end of a long one, prompts of one length follow each other, and
// the long one is never held up by more than half. A prompt whose nodes have no room at the
// moment is passed over. The tokens of all that are under way stay within what devices keep memory for
// (MaxPrefillTokensAtOnce), with the first one's place kept free for it.
//
// Owns the jobs, and with them the device's prefill memory. A sequence belongs to the queue from Push() until its
// prefill has ended or Forget(). An error of the device fails the sequence. Thread-compatible.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

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
  void Push(Sequence* sequence);
  // The sequence ends: it leaves the queue, and if its prefill runs that ends, too. Unknown ones are ignored.
  void Forget(const Sequence& sequence);
  // Does one unit of one sequence's prefill, whose first token is taken at the end of it. Sequences whose nodes are not
  // connected yet are passed over. False if there was nothing to do.
  bool Run();
  // Sequences that are prefilled and whose shards have acknowledged everything begin to decode, and report their first
  // tokens. False if there was none.
  bool BeginDecoding(const SequenceTable& sequences);

 private:
  struct Entry {
    Sequence* sequence;
    std::unique_ptr<PrefillJob> job;
    int64_t progress_ns = 0;       // of the last progress event
    uint32_t progress_layers = 0;  // likewise
  };
  // No node of it is still to be connected.
  bool HasItsNodes(const Sequence& sequence) const;
  // It may begin: there is room for it.
  bool HasRoom(const Entry& entry) const;
  // Indices of entries that can go on, in the order in which they are tried.
  std::vector<size_t> Choose() const;
  // False: its nodes have no room, or the device has no memory for it beside the others.
  bool RunUnit(size_t entry_idx);
  // The last unit gave its logits: it leaves the queue.
  void End(size_t entry_idx);
  void ReportProgress(Entry& entry);

  const EngineOptions& options_;
  Device* const device_;
  const RemoteNodes* const nodes_;
  SpillSender* const spill_;
  const TokenTaker* const tokens_;
  const Clock* const clock_;
  EngineEvents* const events_;
  EngineMetrics* const metrics_;
  std::vector<Entry> entries_;  // in order of arrival
  double lead_ = 0;             // work by which the first one is ahead of the shortest, while they differ
};

}  // namespace tributary
