#include "gpu_worker/engine/sequence_state.h"

namespace tributary {
namespace {

using S = SequenceState;
using E = SequenceEvent;

constexpr SequenceTransition kTransitions[] = {
    {S::kQueued, E::kBeginPrefill, S::kPrefilling},
    {S::kPrefilling, E::kEndPrefill, S::kDraining},
    {S::kDraining, E::kAcknowledged, S::kDecoding},
    {S::kDraining, E::kReplay, S::kAppending},
    {S::kDecoding, E::kAnswered, S::kAnswered},
    {S::kAnswered, E::kKeep, S::kKept},
    {S::kKept, E::kContinue, S::kAppending},
    {S::kAppending, E::kAppended, S::kDecoding},
    {S::kQueued, E::kEnd, S::kEnded},
    {S::kPrefilling, E::kEnd, S::kEnded},
    {S::kDraining, E::kEnd, S::kEnded},
    {S::kDecoding, E::kEnd, S::kEnded},
    {S::kAnswered, E::kEnd, S::kEnded},
    {S::kKept, E::kEnd, S::kEnded},
    {S::kAppending, E::kEnd, S::kEnded},
};

}  // namespace

std::span<const SequenceTransition> SequenceTransitions() { return kTransitions; }

std::optional<SequenceState> NextState(SequenceState state, SequenceEvent event) {
  for (const SequenceTransition& transition : kTransitions) {
    if (transition.state == state && transition.event == event) return transition.next;
  }
  return std::nullopt;
}

std::string_view SequenceStateName(SequenceState state) {
  switch (state) {
    case S::kQueued:
      return "queued";
    case S::kPrefilling:
      return "prefilling";
    case S::kDraining:
      return "draining";
    case S::kDecoding:
      return "decoding";
    case S::kAnswered:
      return "answered";
    case S::kKept:
      return "kept";
    case S::kAppending:
      return "appending";
    case S::kEnded:
      return "ended";
  }
  return "unknown";
}

std::string_view SequenceEventName(SequenceEvent event) {
  switch (event) {
    case E::kBeginPrefill:
      return "begin prefill";
    case E::kEndPrefill:
      return "end prefill";
    case E::kAcknowledged:
      return "acknowledged";
    case E::kReplay:
      return "replay";
    case E::kAnswered:
      return "answered";
    case E::kKeep:
      return "keep";
    case E::kContinue:
      return "continue";
    case E::kAppended:
      return "appended";
    case E::kEnd:
      return "end";
  }
  return "unknown";
}

}  // namespace tributary
