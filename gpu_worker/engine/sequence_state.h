// The life of a sequence on the GPU worker, as one table of legal transitions. Source of truth: kTransitions in
// sequence_state.cc; the picture below is for people.
//
//   Queued --BeginPrefill--> Prefilling --EndPrefill--> Draining --Acknowledged--> Decoding --Answered--> Answered
//                                                           |                          ^                      |
//                                                         Replay                       |                      |
//                                                           v                          |                      |
//                                                       Appending <--Continue-- Kept   |                      |
//                                                           |                     ^----+--------Keep----------+
//                                                           +-------Appended-----------+
//
// Every state but Ended takes End: the answer is complete, the sequence has failed, or somebody stopped it. That a
// sequence has failed is no state: it keeps the one that it had, and ends as soon as nobody looks at it.
//
// Pure functions, safe from any thread.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string_view>

namespace tributary {

enum class SequenceState {
  kQueued,      // waits for the device's prefill
  kPrefilling,  // the device works on its prompt
  kDraining,    // prefilled; waits for the shards' acknowledgements
  kDecoding,    // takes decode steps
  kAnswered,    // has its turn's last token; it is kept or ends as soon as nobody looks at it
  kKept,        // between two turns; a Continue may follow
  kAppending,   // a later turn's tokens go in, or those of a sequence that is rebuilt
  kEnded,       // forgotten; nothing can follow
};
inline constexpr std::array kSequenceStates = {
    SequenceState::kQueued,   SequenceState::kPrefilling, SequenceState::kDraining,  SequenceState::kDecoding,
    SequenceState::kAnswered, SequenceState::kKept,       SequenceState::kAppending, SequenceState::kEnded};

enum class SequenceEvent {
  kBeginPrefill,  // it is the first in the queue, and the device is free
  kEndPrefill,    // the last layer is done
  kAcknowledged,  // its shards hold all that was sent to them
  kReplay,        // likewise, and there is more to the sequence than its first prompt: it is rebuilt
  kAnswered,      // the latest token is the turn's last one
  kKeep,          // its plan wants it to stay
  kContinue,      // its next turn begins
  kAppended,      // all tokens of its turn have KV
  kEnd,           // the engine forgets it
};
inline constexpr std::array kSequenceEvents = {
    SequenceEvent::kBeginPrefill, SequenceEvent::kEndPrefill, SequenceEvent::kAcknowledged,
    SequenceEvent::kReplay,       SequenceEvent::kAnswered,   SequenceEvent::kKeep,
    SequenceEvent::kContinue,     SequenceEvent::kAppended,   SequenceEvent::kEnd};

struct SequenceTransition {
  SequenceState state;
  SequenceEvent event;
  SequenceState next;
};

// Every legal transition, once.
std::span<const SequenceTransition> SequenceTransitions();
// Where the event leads; nothing if it may not come in this state.
std::optional<SequenceState> NextState(SequenceState state, SequenceEvent event);

std::string_view SequenceStateName(SequenceState state);
std::string_view SequenceEventName(SequenceEvent event);

}  // namespace tributary
