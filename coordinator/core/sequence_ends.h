// How sequences end: answers to clients, ends of leases, stops, and the release of everything that a sequence holds.
//
// What holds after every call:
//   - a client gets exactly one Finish, and nothing after it;
//   - a sequence's shards are closed only once its worker let go of it, is gone, or stayed silent for stop_timeout_ns;
//   - nobody who counted on a lease is left without the reason why it ended.
// Holds no state. Thread-compatible.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "cluster/sequence_summary.h"
#include "coordinator/core/core_parts.h"

namespace tributary {

class SequenceEnds {
 public:
  // `parts` outlives this.
  explicit SequenceEnds(CoreParts* parts) : parts_(*parts) {}

  // Answers the client of a turn that ended well: the worker's summary, and what only the coordinator knows.
  // REQUIRES: the sequence has a client.
  void FinishTurn(SequenceEntry& sequence, SequenceSummary summary, std::optional<KeptLease> kept);
  // Ends a sequence early; its client, if any, gets `status`. The entry may be gone afterwards.
  void Fail(SequenceEntry& sequence, const absl::Status& status, action::Outcome outcome);
  // Likewise, of one of which something is lost: the client is told to send it again.
  void FailLost(SequenceEntry& sequence, const std::string& why);
  // The worker has let go of the sequence, and says how it ended. REQUIRES: life.Allows(kEnded).
  void OnWorkerEnded(SequenceEntry& sequence, SequenceEnded ended);

  // Lets go of a kept sequence.
  void EndKept(SequenceEntry& sequence, action::LeaseEnd end, const absl::Status& why);
  // Those whose lease is over.
  void EndExpired();
  // Those whose worker or nodes finish what they have and take nothing new.
  void EndDraining();
  // OK, or who of those that the sequence needs drains.
  absl::Status Drains(const SequenceEntry& sequence) const;

  // Releases sequences whose worker did not answer a stop in time.
  void GiveUpStops();

 private:
  void Answer(SequenceEntry& sequence, action::Finish finish);
  // The sequence will not be continued any more: remembers why.
  void EndLease(SequenceEntry& sequence, action::LeaseEnd end, const absl::Status& why);
  // Closes its shards, gives back its memory, and forgets it. REQUIRES: `why` leads to kGone.
  void Release(SequenceEntry& sequence, SequenceEvent why);

  CoreParts& parts_;
};

}  // namespace tributary
