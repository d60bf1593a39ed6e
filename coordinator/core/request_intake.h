// What clients and operators ask for: new requests, continuations, cancels, the drain. Decides who may enter, who waits
// and who goes in. Holds no state of its own. Thread-compatible.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "coordinator/core/core_parts.h"
#include "coordinator/core/sequence_ends.h"
#include "coordinator/core/sequence_rebuilds.h"
#include "coordinator/core/turn_progress.h"

namespace tributary {

class RequestIntake {
 public:
  // All outlive this.
  RequestIntake(CoreParts* parts, SequenceEnds* ends, TurnProgress* turns, SequenceRebuilds* rebuilds)
      : parts_(*parts), ends_(*ends), turns_(*turns), rebuilds_(*rebuilds) {}

  void On(event::Generate& e);
  void On(event::ClientGone& e);
  void On(event::Cancel& e);
  void On(event::Drain& e);
  void On(event::Abort& e);

  // Gives places to those who wait, as long as the first of them fits. One that is rebuilt and waits for members, not
  // for memory, holds up nobody.
  void StartQueued();

 private:
  // Resolves what the request leaves open, and checks it; on errors, *reason says which kind (action::Finish).
  absl::Status Admit(GenerateSpec& spec, std::string_view* reason) const;
  // INVALID_ARGUMENT beyond the cluster's limit, which is also what a request gets that states none.
  absl::Status ResolveStall(GenerateSpec& spec) const;
  // What the request needs. REQUIRES: admitted.
  Demand DemandOf(const GenerateSpec& spec) const;
  void Enqueue(CallId call, GenerateSpec spec, Demand demand);
  void Continue(event::Generate& e);
  // NOT_FOUND, FAILED_PRECONDITION, or what CheckContinuation says.
  absl::StatusOr<SequenceEntry*> FindContinued(const GenerateSpec& spec) const;
  void Reject(CallId call, absl::Status status, std::string_view reason, bool may_retry);

  CoreParts& parts_;
  SequenceEnds& ends_;
  TurnProgress& turns_;
  SequenceRebuilds& rebuilds_;
};

}  // namespace tributary
