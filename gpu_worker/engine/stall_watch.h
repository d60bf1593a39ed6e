// Parking: sequences that cannot go on because nodes which hold their KV are silent. Nothing of theirs is lost; they
// are left out of steps, so that others do not wait for them, until a node is heard again or they have waited too long.
//
// A sequence is stalled while all holders of a shard that it needs are silent, or one whose acknowledgement would make
// room in its window. Owns nothing: each sequence has its own SequenceStall. Thread-compatible.
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "gpu_worker/engine/engine_events.h"
#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/engine/sequence_table.h"
#include "gpu_worker/engine/spill_pump.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "gpu_worker/remote/remote_nodes.h"
#include "gpu_worker/spill/spill.h"

namespace tributary {

// What the watch works with; all outlive it, and `metrics` may be null.
struct StallParts {
  const RemoteNodes* nodes = nullptr;
  const SequenceTable* sequences = nullptr;
  const SpillSender* sender = nullptr;
  SpillPump* spills = nullptr;
  EngineEvents* events = nullptr;
  EngineMetrics* metrics = nullptr;
};

class StallWatch {
 public:
  StallWatch(const EngineOptions& options, const StallParts& parts) : options_(options), parts_(parts) {}

  // Reports who has stalled and who goes on, and fails those who have been without a step for their plan's max_stall.
  // Between steps.
  void Update();

 private:
  void Update(Sequence& sequence);
  void FailIfTooLong(Sequence& sequence);

  // A holder that alone keeps a window full, while another holder lives, is lost after max_silence_ns.
  const EngineOptions& options_;
  const StallParts parts_;
  int64_t looked_ns_ = 0;  // patient time
  uint32_t num_stalled_ = 0;
};

// How long the turn may stand still.
int64_t MaxStallNs(const TurnPlan& turn, const EngineOptions& options);
// The silent node without which the sequence cannot take its next step now; kNoNode if there is none.
NodeIdx StalledOn(const Sequence& sequence, const RemoteNodes& nodes, const SpillSender& sender);

}  // namespace tributary
