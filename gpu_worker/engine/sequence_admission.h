// Makes a sequence of a plan: everything that may refuse one is here.
//
// Checks the plan against the model and the device, pairs with the nodes that hold its shards, and reserves its
// resident memory, which the sequence then holds until TurnCloser gives it back. A refusal leaves nothing behind but
// the pairing.
// Thread-compatible.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/remote/remote_nodes.h"

namespace tributary {

class SequenceAdmission {
 public:
  // All outlive this.
  SequenceAdmission(const ModelLimits& model, Device* device, RemoteNodes* nodes, const Clock* clock)
      : model_(model), device_(device), nodes_(nodes), clock_(clock) {}

  // A queued sequence. Blocks while it pairs with a node that is new. Errors, each with the offending value:
  // INVALID_ARGUMENT (the plan), UNIMPLEMENTED (policy), RESOURCE_EXHAUSTED (resident memory), those of pairing, with
  // *blamed set to the node's id, and the device's own.
  absl::StatusOr<std::unique_ptr<Sequence>> Admit(SequencePlan plan, std::string* blamed);

 private:
  absl::Status BindShards(const SequencePlan& plan, Sequence* sequence, std::string* blamed);
  absl::Status Reserve(const SequencePlan& plan, Sequence* sequence);
  // All tokens that the plan says were there.
  TokenHistory HistoryOf(const SequencePlan& plan) const;

  const ModelLimits model_;
  Device* const device_;
  RemoteNodes* const nodes_;
  const Clock* const clock_;
};

}  // namespace tributary
