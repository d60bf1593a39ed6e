// Which sequences make up a worker's next step (continuous batching). Pure; thread-compatible.
//
// A sequence joins when its prefill has given the first token, and is then in every step until it
// has its tokens or leaves. Two steps are in flight, so that the worker starts the next one while
// the last one's tokens travel back: the scheduler counts the steps that a sequence is in, not the
// tokens that came back. With more sequences than fit into a batch they take turns.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
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

  // The next step to send now, if the pipeline has room and a sequence is due.
  std::optional<Step> Next(int64_t now_ns);
  // False for a step that is not in flight.
  bool OnDone(StepId step_id);

  uint32_t in_flight() const { return static_cast<uint32_t>(in_flight_.size()); }
  // When the oldest step in flight was sent.
  std::optional<int64_t> oldest_sent_ns() const;

 private:
  struct InFlight {
    StepId step_id;
    int64_t sent_ns = 0;
  };
  uint32_t max_batch_;
  uint64_t last_step_id_ = 0;
  std::deque<SequenceId> turn_;
  absl::flat_hash_map<SequenceId, uint64_t> steps_left_;
  std::deque<InFlight> in_flight_;
};

}  // namespace tributary
