#include "coordinator/core/step_scheduler.h"

#include <algorithm>

#include "base/limits.h"

namespace tributary {

void StepScheduler::Join(SequenceId sequence, uint64_t steps_left) {
  if (steps_left == 0 || !steps_left_.try_emplace(sequence, steps_left).second) return;
  turn_.push_back(sequence);
}

void StepScheduler::Leave(SequenceId sequence) {
  if (steps_left_.erase(sequence) != 0) std::erase(turn_, sequence);
}

std::optional<StepScheduler::Step> StepScheduler::Next(int64_t now_ns) {
  if (in_flight() >= limits::kMaxStepsInFlight || turn_.empty()) return std::nullopt;
  Step step{StepId(++last_step_id_), {}};
  const size_t batch = std::min<size_t>(max_batch_, turn_.size());
  for (size_t i = 0; i < batch; ++i) {
    const SequenceId sequence = turn_.front();
    turn_.pop_front();
    step.sequences.push_back(sequence);
    const auto it = steps_left_.find(sequence);
    if (--it->second == 0) {
      steps_left_.erase(it);
    } else {
      turn_.push_back(sequence);
    }
  }
  in_flight_.push_back({step.step_id, now_ns});
  return step;
}

bool StepScheduler::OnDone(StepId step_id) {
  const auto it =
      std::find_if(in_flight_.begin(), in_flight_.end(), [&](const InFlight& step) { return step.step_id == step_id; });
  if (it == in_flight_.end()) return false;
  in_flight_.erase(it);
  return true;
}

std::optional<int64_t> StepScheduler::oldest_sent_ns() const {
  if (in_flight_.empty()) return std::nullopt;
  return in_flight_.front().sent_ns;
}

}  // namespace tributary
