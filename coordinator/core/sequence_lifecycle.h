// The life of a sequence in the coordinator: one table of legal transitions.
//
//   queued --placed--> opening --opened--> prefilling --first token--> decoding --kept--> kept
//                                              ^                                           |
//                                              +------------------continued----------------+
//   prefilling --kept--> kept                      (rebuilt, and its answer was complete)
//   prefilling, decoding, kept --recall--> recalled
//   opening, prefilling, decoding, recalled --place lost--> queued
//   recalled, kept --shelved--> shelved --continued--> queued
//   recalled --continued--> recalled
//   prefilling, decoding, recalled, kept --stop--> stopping
//   queued, opening, shelved --dropped--> gone
//   prefilling, decoding, recalled, kept, stopping --ended--> gone
//   opening, prefilling, decoding, recalled, kept, stopping --worker gone--> gone
//   stopping --stop timed out--> gone
//
// `prefilling` is the wait for a turn's first token, or for the next one of a sequence that is rebuilt: of a later
// turn, while its tokens are appended. `stopping` waits for the worker's word that it has let go, so that no shard is
// closed under a step that reads it; so does `recalled`, of a sequence that will be rebuilt: then nothing that the
// worker says of it can be about its former place. `shelved` is kept without KV, until it is continued.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace tributary {

enum class SequencePhase { kQueued, kOpening, kPrefilling, kDecoding, kRecalled, kKept, kShelved, kStopping, kGone };
inline constexpr size_t kNumSequencePhases = 9;
std::string_view SequencePhaseName(SequencePhase phase);  // "queued" ...

enum class SequenceEvent {
  kPlaced,        // it has a worker, and its shards are being opened
  kPlaceLost,     // nothing has come of its place, or KV there is lost: it waits for another
  kOpened,        // all shards are open; the worker has been asked to start
  kFirstToken,    // of a turn
  kRecall,        // KV of it is lost; the worker has been asked to let go
  kShelved,       // between two turns KV of it was lost, and its worker has let go of it
  kKept,          // a turn has ended well, and the sequence stays
  kContinued,     // the next turn begins
  kStop,          // the worker has been asked to let go
  kDropped,       // it ends before the worker has heard of it
  kEnded,         // the worker has let go of it
  kWorkerGone,    // nobody is left who could let go
  kStopTimedOut,  // the worker did not say that it let go
};
inline constexpr size_t kNumSequenceEvents = 13;
std::string_view SequenceEventName(SequenceEvent event);  // "placed" ...

// Where the event leads, or nothing if it is not legal in this phase.
std::optional<SequencePhase> NextPhase(SequencePhase phase, SequenceEvent event);

// Thread-compatible.
class SequenceLifecycle {
 public:
  SequencePhase phase() const { return phase_; }
  // Events that come from outside are asked with this: one that is not legal is not for this sequence any more, or not
  // yet.
  bool Allows(SequenceEvent event) const { return NextPhase(phase_, event).has_value(); }
  // REQUIRES: Allows(event). Checked: anything else is a bug.
  void Advance(SequenceEvent event);

 private:
  SequencePhase phase_ = SequencePhase::kQueued;
};

}  // namespace tributary
