#include "gpu_worker/engine/sequence_state.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gpu_worker/engine/sequence.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using S = SequenceState;
using E = SequenceEvent;

// Written down once more: a change of the table must be meant. Rows are states, columns events, as in kSequenceStates
// and kSequenceEvents.
constexpr S kNone = static_cast<S>(-1);
constexpr S kExpected[8][9] = {
    {S::kPrefilling, kNone, kNone, kNone, kNone, kNone, kNone, kNone, S::kEnded},        // queued
    {kNone, S::kDraining, kNone, kNone, kNone, kNone, kNone, kNone, S::kEnded},          // prefilling
    {kNone, kNone, S::kDecoding, S::kAppending, kNone, kNone, kNone, kNone, S::kEnded},  // draining
    {kNone, kNone, kNone, kNone, S::kAnswered, kNone, kNone, kNone, S::kEnded},          // decoding
    {kNone, kNone, kNone, kNone, kNone, S::kKept, kNone, kNone, S::kEnded},              // answered
    {kNone, kNone, kNone, kNone, kNone, kNone, S::kAppending, kNone, S::kEnded},         // kept
    {kNone, kNone, kNone, kNone, kNone, kNone, kNone, S::kDecoding, S::kEnded},          // appending
    {kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone},                     // ended
};

// A sequence that has come to `state` by legal events.
Sequence InState(S state) {
  Sequence sequence;
  const std::vector<E> path = {E::kBeginPrefill, E::kEndPrefill, E::kAcknowledged,
                               E::kAnswered,     E::kKeep,       E::kContinue};
  for (size_t i = 0; sequence.state() != state && i < path.size() && state != S::kEnded; ++i) sequence.Apply(path[i]);
  if (state == S::kEnded) sequence.Apply(E::kEnd);
  return sequence;
}

TEST(SequenceState, TheTableIsAsWrittenDown) {
  for (size_t state = 0; state < kSequenceStates.size(); ++state) {
    for (size_t event = 0; event < kSequenceEvents.size(); ++event) {
      const auto next = NextState(kSequenceStates[state], kSequenceEvents[event]);
      EXPECT_EQ(next.value_or(kNone), kExpected[state][event])
          << SequenceStateName(kSequenceStates[state]) << " + " << SequenceEventName(kSequenceEvents[event]);
    }
  }
}

TEST(SequenceState, EachLegalTransitionStandsOnceAndWorks) {
  std::set<std::pair<S, E>> seen;
  for (const SequenceTransition& transition : SequenceTransitions()) {
    EXPECT_TRUE(seen.insert({transition.state, transition.event}).second);
    Sequence sequence = InState(transition.state);
    ASSERT_EQ(sequence.state(), transition.state);
    sequence.Apply(transition.event);
    EXPECT_EQ(sequence.state(), transition.next);
  }
}

TEST(SequenceStateDeathTest, AllOthersAreRefused) {
  GTEST_FLAG_SET(death_test_style, "fast");
  for (size_t state = 0; state < kSequenceStates.size(); ++state) {
    for (size_t event = 0; event < kSequenceEvents.size(); ++event) {
      if (kExpected[state][event] != kNone) continue;
      Sequence sequence = InState(kSequenceStates[state]);
      const std::string both = "is " + std::string(SequenceStateName(kSequenceStates[state])) + " takes no '" +
                               std::string(SequenceEventName(kSequenceEvents[event])) + "'";
      EXPECT_DEATH(sequence.Apply(kSequenceEvents[event]), both);
      EXPECT_EQ(sequence.state(), kSequenceStates[state]);
    }
  }
}

TEST(SequenceState, NamesAreDistinct) {
  std::set<std::string_view> names;
  for (const S state : kSequenceStates) names.insert(SequenceStateName(state));
  EXPECT_EQ(names.size(), kSequenceStates.size());
  names.clear();
  for (const E event : kSequenceEvents) names.insert(SequenceEventName(event));
  EXPECT_EQ(names.size(), kSequenceEvents.size());
}

}  // namespace
}  // namespace tributary
