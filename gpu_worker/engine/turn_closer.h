// Ends turns: a sequence whose answer is complete is kept or ends, one that has failed ends. Gives back what an ending
// sequence holds, and reports it.
//
// The only place that removes sequences from the table. A status that is reported names the node that is to blame.
// Thread-compatible.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/engine/engine_events.h"
#include "gpu_worker/engine/prefill_queue.h"
#include "gpu_worker/engine/sequence_table.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "gpu_worker/remote/remote_nodes.h"
#include "gpu_worker/sequence/sequence_plan.h"
#include "gpu_worker/spill/spill.h"

namespace tributary {

class TurnCloser {
 public:
  // All outlive this; metrics may be null.
  TurnCloser(SequenceTable* sequences, PrefillQueue* prefills, Device* device, SpillSender* spill,
             const RemoteNodes* nodes, EngineEvents* events, EngineMetrics* metrics)
      : sequences_(sequences),
        prefills_(prefills),
        device_(device),
        spill_(spill),
        nodes_(nodes),
        events_(events),
        metrics_(metrics) {}

  // Ends the sequences that have failed, and the turns that are complete. A broken device fails all.
  void CloseDone();
  // Ends one (OnEnded), with its node to blame or kNoNode. REQUIRES: it is in the table. It is gone on return.
  void End(Sequence& sequence, const absl::Status& status, NodeIdx node);
  // The same without a word.
  void Discard(Sequence& sequence);
  // A plan that no sequence could be made of, whose summary this is; `blamed` is a node's id, or empty.
  void Refuse(SequenceId id, const absl::Status& status, const std::string& blamed, const SequenceSummary& summary);

 private:
  void Keep(Sequence& sequence);
  // Takes it out of everything, and gives back what it holds.
  std::unique_ptr<Sequence> Remove(Sequence& sequence);
  // Adds the bytes of its spills.
  void TakeTraffic(Sequence& sequence);
  void CountFailure(const absl::Status& status);

  SequenceTable* const sequences_;
  PrefillQueue* const prefills_;
  Device* const device_;
  SpillSender* const spill_;
  const RemoteNodes* const nodes_;
  EngineEvents* const events_;
  EngineMetrics* const metrics_;
};

}  // namespace tributary
