// Sequences of which KV is lost for certain, with a node or a worker that is gone: each is placed anew, under a new
// epoch, and a worker computes its KV again from the token ids that the coordinator keeps. Its client is told, and gets
// the next token as if nothing had been. One that is kept between two turns is shelved, and placed anew when it is
// continued.
//
// What holds:
//   - a sequence goes to a new place only once its former worker has let go of it, or is gone;
//   - one that has tokens keeps its cut, so that its attention has the same bits;
//   - it is rebuilt kMaxRebuilds times at most, and without a place it waits no longer than its request may stand still
//     (max_stall), earlier standing still for the same token included.
// Holds no state of its own. Thread-compatible.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "coordinator/core/core_parts.h"
#include "coordinator/core/sequence_ends.h"
#include "coordinator/core/sequence_stalls.h"

namespace tributary {

class SequenceRebuilds {
 public:
  static constexpr uint32_t kMaxRebuilds = 3;

  // All outlive this.
  SequenceRebuilds(CoreParts* parts, SequenceEnds* ends, SequenceStalls* stalls)
      : parts_(*parts), ends_(*ends), stalls_(*stalls) {}

  struct Loss {
    action::RebuildCause cause = action::RebuildCause::kNode;
    std::string node_id;
    std::string why;  // names it
  };

  // KV of the sequence is gone: begins to rebuild it, or ends it. If its worker still has it, that one is asked to let
  // go of it first. The entry may be gone afterwards.
  void OnLost(SequenceEntry& sequence, const Loss& loss);
  // The sequence's place is lost because of that node, and its worker has let go of it or does not have it yet. False
  // if it may not be rebuilt: it is the caller's to end, and `status` says why now.
  bool OnPlaceFailed(SequenceEntry& sequence, const std::string& node_id, absl::Status& status);
  // The worker has let go of a recalled sequence.
  void OnLetGo(SequenceEntry& sequence);
  // A kept sequence is continued, and its KV is lost.
  void OnContinued(SequenceEntry& sequence);

  // It finds no place now.
  void Waits(SequenceEntry& sequence, const absl::Status& why) {
    sequence.rebuild.why_waiting = std::string(why.message());
  }
  // All its shards are open.
  void HasPlace(SequenceEntry& sequence);
  // Tokens have come.
  void OnTokens(SequenceEntry& sequence);
  // Ends those that have waited for a place for as long as they may.
  void EndTooLong();

  // Takes back the place of a sequence, which waits for another before those that never had one. REQUIRES: its worker
  // has let go of it, or is gone.
  void Requeue(SequenceEntry& sequence);

 private:
  // OK, or what keeps it from being rebuilt.
  absl::Status MayRebuild(const SequenceEntry& sequence) const;
  void Begin(SequenceEntry& sequence, const Loss& loss);
  // Of a kept sequence: remembers what is lost until it is continued.
  void Note(SequenceEntry& sequence, const Loss& loss);
  // Takes back the place of a kept sequence.
  void Shelve(SequenceEntry& sequence);
  void Recall(SequenceEntry& sequence);
  void LeavePlace(SequenceEntry& sequence);
  void CountRefused(const SequenceEntry& sequence, action::RebuildCause cause);
  int64_t WaitedNs(const SequenceEntry& sequence) const;

  CoreParts& parts_;
  SequenceEnds& ends_;
  SequenceStalls& stalls_;
};

}  // namespace tributary
