// The life of a sequence in the coordinator: one table of legal transitions.
//
//   queued --placed--> opening --opened--> prefilling --first token--> decoding --kept--> kept
//                                              ^                                           |
//                                              +------------------continued----------------+
//   opening, prefilling --place lost--> queued
//   prefilling, decoding, kept --stop--> stopping
//   queued, opening --dropped--> gone
//   prefilling, decoding, kept, stopping --ended--> gone
//   opening, prefilling, decoding, kept, stopping --worker gone--> gone
//   stopping --stop timed out--> gone
//
// `prefilling` is the wait for a turn's first token: of a later turn, while its tokens are appended. `stopping` waits
// for the worker's word that it has let go, so that no shard is closed under a step that reads it.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace tributary {

enum class SequencePhase { kQueued, kOpening, kPrefilling, kDecoding, kKept, kStopping, kGone };
inline constexpr size_t kNumSequencePhases = 7;
std::string_view SequencePhaseName(SequencePhase phase);  // "queued" ...

enum class SequenceEvent {
  kPlaced,        // it has a worker, and its shards are being opened
  kPlaceLost,     // nothing has come of its place, and there is another
  kOpened,        // all shards are open; the worker has been asked to start
  kFirstToken,    // of a turn
  kKept,          // a turn has ended well, and the sequence stays
  kContinued,     // the next turn begins
  kStop,          // the worker has been asked to let go
  kDropped,       // it ends before the worker has heard of it
  kEnded,         // the worker has let go of it
  kWorkerGone,    // nobody is left who could let go
  kStopTimedOut,  // the worker did not say that it let go
};
inline constexpr size_t kNumSequenceEvents = 11;
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
