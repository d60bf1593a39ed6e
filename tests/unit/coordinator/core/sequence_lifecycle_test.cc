#include "coordinator/core/sequence_lifecycle.h"

#include <map>
#include <set>
#include <utility>

#include "gtest/gtest.h"

namespace tributary {
namespace {

using Phase = SequencePhase;
using Event = SequenceEvent;

// Written out by hand and compared with the whole table: what does not stand here must be refused.
const std::map<std::pair<Phase, Event>, Phase> kLegal = {
    {{Phase::kQueued, Event::kPlaced}, Phase::kOpening},
    {{Phase::kQueued, Event::kDropped}, Phase::kGone},
    {{Phase::kOpening, Event::kPlaceLost}, Phase::kQueued},
    {{Phase::kPrefilling, Event::kPlaceLost}, Phase::kQueued},
    {{Phase::kPrefilling, Event::kRecall}, Phase::kRecalled},
    {{Phase::kPrefilling, Event::kKept}, Phase::kKept},
    {{Phase::kDecoding, Event::kPlaceLost}, Phase::kQueued},
    {{Phase::kDecoding, Event::kRecall}, Phase::kRecalled},
    {{Phase::kKept, Event::kRecall}, Phase::kRecalled},
    {{Phase::kKept, Event::kShelved}, Phase::kShelved},
    {{Phase::kRecalled, Event::kShelved}, Phase::kShelved},
    {{Phase::kRecalled, Event::kContinued}, Phase::kRecalled},
    {{Phase::kShelved, Event::kContinued}, Phase::kQueued},
    {{Phase::kShelved, Event::kDropped}, Phase::kGone},
    {{Phase::kRecalled, Event::kPlaceLost}, Phase::kQueued},
    {{Phase::kRecalled, Event::kStop}, Phase::kStopping},
    {{Phase::kRecalled, Event::kEnded}, Phase::kGone},
    {{Phase::kRecalled, Event::kWorkerGone}, Phase::kGone},
    {{Phase::kOpening, Event::kOpened}, Phase::kPrefilling},
    {{Phase::kOpening, Event::kDropped}, Phase::kGone},
    {{Phase::kOpening, Event::kWorkerGone}, Phase::kGone},
    {{Phase::kPrefilling, Event::kFirstToken}, Phase::kDecoding},
    {{Phase::kPrefilling, Event::kStop}, Phase::kStopping},
    {{Phase::kPrefilling, Event::kEnded}, Phase::kGone},
    {{Phase::kPrefilling, Event::kWorkerGone}, Phase::kGone},
    {{Phase::kDecoding, Event::kKept}, Phase::kKept},
    {{Phase::kDecoding, Event::kStop}, Phase::kStopping},
    {{Phase::kDecoding, Event::kEnded}, Phase::kGone},
    {{Phase::kDecoding, Event::kWorkerGone}, Phase::kGone},
    {{Phase::kKept, Event::kContinued}, Phase::kPrefilling},
    {{Phase::kKept, Event::kStop}, Phase::kStopping},
    {{Phase::kKept, Event::kEnded}, Phase::kGone},
    {{Phase::kKept, Event::kWorkerGone}, Phase::kGone},
    {{Phase::kStopping, Event::kEnded}, Phase::kGone},
    {{Phase::kStopping, Event::kWorkerGone}, Phase::kGone},
    {{Phase::kStopping, Event::kStopTimedOut}, Phase::kGone},
};

// A sequence in the phase, by legal events.
SequenceLifecycle In(Phase phase) {
  static const std::map<Phase, std::vector<Event>> ways = {
      {Phase::kQueued, {}},
      {Phase::kOpening, {Event::kPlaced}},
      {Phase::kPrefilling, {Event::kPlaced, Event::kOpened}},
      {Phase::kDecoding, {Event::kPlaced, Event::kOpened, Event::kFirstToken}},
      {Phase::kRecalled, {Event::kPlaced, Event::kOpened, Event::kRecall}},
      {Phase::kKept, {Event::kPlaced, Event::kOpened, Event::kFirstToken, Event::kKept}},
      {Phase::kShelved, {Event::kPlaced, Event::kOpened, Event::kFirstToken, Event::kKept, Event::kShelved}},
      {Phase::kStopping, {Event::kPlaced, Event::kOpened, Event::kStop}},
      {Phase::kGone, {Event::kDropped}},
  };
  SequenceLifecycle life;
  for (const Event event : ways.at(phase)) life.Advance(event);
  EXPECT_EQ(life.phase(), phase);
  return life;
}

TEST(SequenceLifecycleTest, TheTableIsAsWritten) {
  for (size_t p = 0; p < kNumSequencePhases; ++p) {
    for (size_t e = 0; e < kNumSequenceEvents; ++e) {
      const auto phase = static_cast<Phase>(p);
      const auto event = static_cast<Event>(e);
      SCOPED_TRACE(std::string(SequencePhaseName(phase)) + ", " + std::string(SequenceEventName(event)));
      const auto legal = kLegal.find({phase, event});
      SequenceLifecycle life = In(phase);
      ASSERT_EQ(life.Allows(event), legal != kLegal.end());
      if (legal == kLegal.end()) {
        EXPECT_EQ(NextPhase(phase, event), std::nullopt);
        continue;
      }
      EXPECT_EQ(NextPhase(phase, event), legal->second);
      life.Advance(event);
      EXPECT_EQ(life.phase(), legal->second);
    }
  }
}

TEST(SequenceLifecycleTest, WhatIsNotLegalIsABug) {
  EXPECT_DEATH(In(Phase::kQueued).Advance(Event::kFirstToken),
               "'first token' is not legal for a sequence that is queued");
  EXPECT_DEATH(In(Phase::kGone).Advance(Event::kDropped), "'dropped' is not legal for a sequence that is gone");
  EXPECT_DEATH(In(Phase::kStopping).Advance(Event::kKept), "'kept' is not legal for a sequence that is stopping");
}

TEST(SequenceLifecycleTest, EveryPhaseAndEventHasAName) {
  std::set<std::string_view> names;
  for (size_t p = 0; p < kNumSequencePhases; ++p) names.insert(SequencePhaseName(static_cast<Phase>(p)));
  EXPECT_EQ(names.size(), kNumSequencePhases);
  names.clear();
  for (size_t e = 0; e < kNumSequenceEvents; ++e) names.insert(SequenceEventName(static_cast<Event>(e)));
  EXPECT_EQ(names.size(), kNumSequenceEvents);
  EXPECT_FALSE(names.contains("unknown"));
}

}  // namespace
}  // namespace tributary
