#include "coordinator/core/sequence_lifecycle.h"

#include "base/check.h"
#include "fmt/format.h"

namespace tributary {
namespace {

using Phase = SequencePhase;
using Event = SequenceEvent;

struct Transition {
  Phase from;
  Event event;
  Phase to;
};

constexpr Transition kTransitions[] = {
    {Phase::kQueued, Event::kPlaced, Phase::kOpening},      {Phase::kOpening, Event::kOpened, Phase::kPrefilling},
    {Phase::kOpening, Event::kPlaceLost, Phase::kQueued},   {Phase::kPrefilling, Event::kPlaceLost, Phase::kQueued},
    {Phase::kDecoding, Event::kPlaceLost, Phase::kQueued},  {Phase::kRecalled, Event::kPlaceLost, Phase::kQueued},
    {Phase::kPrefilling, Event::kRecall, Phase::kRecalled}, {Phase::kDecoding, Event::kRecall, Phase::kRecalled},
    {Phase::kKept, Event::kRecall, Phase::kRecalled},       {Phase::kKept, Event::kShelved, Phase::kShelved},
    {Phase::kRecalled, Event::kShelved, Phase::kShelved},   {Phase::kRecalled, Event::kContinued, Phase::kRecalled},
    {Phase::kShelved, Event::kContinued, Phase::kQueued},   {Phase::kPrefilling, Event::kFirstToken, Phase::kDecoding},
    {Phase::kDecoding, Event::kKept, Phase::kKept},         {Phase::kPrefilling, Event::kKept, Phase::kKept},
    {Phase::kKept, Event::kContinued, Phase::kPrefilling},

    {Phase::kPrefilling, Event::kStop, Phase::kStopping},   {Phase::kDecoding, Event::kStop, Phase::kStopping},
    {Phase::kRecalled, Event::kStop, Phase::kStopping},     {Phase::kKept, Event::kStop, Phase::kStopping},

    {Phase::kQueued, Event::kDropped, Phase::kGone},        {Phase::kOpening, Event::kDropped, Phase::kGone},
    {Phase::kShelved, Event::kDropped, Phase::kGone},

    {Phase::kPrefilling, Event::kEnded, Phase::kGone},      {Phase::kDecoding, Event::kEnded, Phase::kGone},
    {Phase::kRecalled, Event::kEnded, Phase::kGone},        {Phase::kKept, Event::kEnded, Phase::kGone},
    {Phase::kStopping, Event::kEnded, Phase::kGone},

    {Phase::kOpening, Event::kWorkerGone, Phase::kGone},    {Phase::kPrefilling, Event::kWorkerGone, Phase::kGone},
    {Phase::kDecoding, Event::kWorkerGone, Phase::kGone},   {Phase::kRecalled, Event::kWorkerGone, Phase::kGone},
    {Phase::kKept, Event::kWorkerGone, Phase::kGone},       {Phase::kStopping, Event::kWorkerGone, Phase::kGone},

    {Phase::kStopping, Event::kStopTimedOut, Phase::kGone},
};

}  // namespace

std::string_view SequencePhaseName(SequencePhase phase) {
  switch (phase) {
    case Phase::kQueued:
      return "queued";
    case Phase::kOpening:
      return "opening";
    case Phase::kPrefilling:
      return "prefilling";
    case Phase::kDecoding:
      return "decoding";
    case Phase::kRecalled:
      return "recalled";
    case Phase::kKept:
      return "kept";
    case Phase::kShelved:
      return "shelved";
    case Phase::kStopping:
      return "stopping";
    case Phase::kGone:
      return "gone";
  }
  return "unknown";
}

std::string_view SequenceEventName(SequenceEvent event) {
  switch (event) {
    case Event::kPlaced:
      return "placed";
    case Event::kPlaceLost:
      return "place lost";
    case Event::kOpened:
      return "opened";
    case Event::kFirstToken:
      return "first token";
    case Event::kRecall:
      return "recall";
    case Event::kShelved:
      return "shelved";
    case Event::kKept:
      return "kept";
    case Event::kContinued:
      return "continued";
    case Event::kStop:
      return "stop";
    case Event::kDropped:
      return "dropped";
    case Event::kEnded:
      return "ended";
    case Event::kWorkerGone:
      return "worker gone";
    case Event::kStopTimedOut:
      return "stop timed out";
  }
  return "unknown";
}

std::optional<SequencePhase> NextPhase(SequencePhase phase, SequenceEvent event) {
  for (const Transition& transition : kTransitions) {
    if (transition.from == phase && transition.event == event) return transition.to;
  }
  return std::nullopt;
}

void SequenceLifecycle::Advance(SequenceEvent event) {
  const std::optional<SequencePhase> next = NextPhase(phase_, event);
  if (!next.has_value()) {
    internal::CheckFailed(__FILE__, __LINE__,
                          fmt::format("event '{}' is not legal for a sequence that is {}", SequenceEventName(event),
                                      SequencePhaseName(phase_)));
  }
  phase_ = *next;
}

}  // namespace tributary
