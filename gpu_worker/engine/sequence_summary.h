// What is reported of a sequence when a turn of it ends.
#pragma once

#include "gpu_worker/engine/engine_events.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/remote/remote_nodes.h"

namespace tributary {

// Pure. `nodes` gives the names of those that hold its shards.
SequenceSummary MakeSummary(const Sequence& sequence, const RemoteNodes& nodes);
// The summary of a plan that was refused before there was a sequence.
SequenceSummary EmptySummary(const SequencePlan& plan);

}  // namespace tributary
