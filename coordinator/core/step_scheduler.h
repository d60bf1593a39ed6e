// Which sequences make up a worker's next step (continuous batching). Pure; thread-compatible.
//
// A sequence joins when its prefill has given the first token, and is then in every step until it
// has its tokens or leaves. Two steps are in flight, so that the worker starts the next one while
// the last one's tokens travel back: the scheduler counts the steps that a sequence is in, and gives
// back those that brought it no token. With more sequences than fit into a batch they take turns. One
// that is suspended is in none until it is resumed.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/ids.h"

namespace tributary {

class StepScheduler {
 public:
  struct Step {
    StepId step_id;
    std::vector<SequenceId> sequences;
  };

  // REQUIRES: max_batch > 0.
  explicit StepScheduler(uint32_t max_batch) : max_batch_(max_batch) {}

  // `steps_left`: tokens still to come. Nothing happens for 0 or a sequence that is already here.
  void Join(SequenceId sequence, uint64_t steps_left);
  void Leave(SequenceId sequence);
  // Unknown sequences are ignored by all of these.
  void Suspend(SequenceId sequence);
  void Resume(SequenceId sequence);

  // The next step to send now, if the pipeline has room and a sequence is due.
  std::optional<Step> Next(int64_t now_ns);
  // The step has brought a token to each of `answered`. False for a step that is not in flight.
  bool OnDone(StepId step_id, const absl::flat_hash_set<SequenceId>& answered);
  // The steps in flight count as sent now.
  void ForgiveUntil(int64_t now_ns);

  uint32_t in_flight() const { return static_cast<uint32_t>(in_flight_.size()); }
  // When the oldest step in flight was sent.
  std::optional<int64_t> oldest_sent_ns() const;

 private:
  struct InFlight {
    StepId step_id;
    int64_t sent_ns = 0;
    std::vector<SequenceId> sequences;
  };
  struct Entry {
    uint64_t steps_left = 0;
    bool suspended = false;
    bool queued = false;  // it is in turn_
  };
  // It takes its place at the end of the turn, if it is due and not there yet.
  void Queue(SequenceId sequence, Entry& entry);
  uint32_t max_batch_;
  uint64_t last_step_id_ = 0;
  std::deque<SequenceId> turn_;
  absl::flat_hash_map<SequenceId, Entry> entries_;
  std::deque<InFlight> in_flight_;
};

}  // namespace tributary
