#include "coordinator/core/step_scheduler.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"

namespace tributary {

void StepScheduler::Join(SequenceId sequence, uint64_t steps_left) {
  if (steps_left == 0) return;
  const auto [it, inserted] = entries_.try_emplace(sequence, Entry{.steps_left = steps_left});
  if (inserted) Queue(sequence, it->second);
}

void StepScheduler::Leave(SequenceId sequence) {
  if (entries_.erase(sequence) != 0) std::erase(turn_, sequence);
}

void StepScheduler::Suspend(SequenceId sequence) {
  const auto it = entries_.find(sequence);
  if (it == entries_.end()) return;
  it->second.suspended = true;
  if (std::exchange(it->second.queued, false)) std::erase(turn_, sequence);
}

void StepScheduler::Resume(SequenceId sequence) {
  const auto it = entries_.find(sequence);
  if (it == entries_.end()) return;
  it->second.suspended = false;
  Queue(sequence, it->second);
}

void StepScheduler::Queue(SequenceId sequence, Entry& entry) {
  if (entry.steps_left == 0 || entry.suspended || std::exchange(entry.queued, true)) return;
  turn_.push_back(sequence);
}

std::optional<StepScheduler::Step> StepScheduler::Next(int64_t now_ns) {
  if (in_flight() >= limits::kMaxStepsInFlight || turn_.empty()) return std::nullopt;
  Step step{StepId(++last_step_id_), {}};
  const size_t batch = std::min<size_t>(max_batch_, turn_.size());
  for (size_t i = 0; i < batch; ++i) {
    const SequenceId sequence = turn_.front();
    turn_.pop_front();
    step.sequences.push_back(sequence);
    Entry& entry = entries_.at(sequence);
    entry.queued = false;
    --entry.steps_left;
    Queue(sequence, entry);
  }
  in_flight_.push_back({step.step_id, now_ns, step.sequences});
  return step;
}

bool StepScheduler::OnDone(StepId step_id, const absl::flat_hash_set<SequenceId>& answered) {
  const auto it =
      std::find_if(in_flight_.begin(), in_flight_.end(), [&](const InFlight& step) { return step.step_id == step_id; });
  if (it == in_flight_.end()) return false;
  for (const SequenceId sequence : it->sequences) {
    const auto entry = entries_.find(sequence);
    if (answered.contains(sequence) || entry == entries_.end()) continue;
    ++entry->second.steps_left;
    Queue(sequence, entry->second);
  }
  in_flight_.erase(it);
  return true;
}

void StepScheduler::ForgiveUntil(int64_t now_ns) {
  for (InFlight& step : in_flight_) step.sent_ns = std::max(step.sent_ns, now_ns);
}

std::optional<int64_t> StepScheduler::oldest_sent_ns() const {
  if (in_flight_.empty()) return std::nullopt;
  return in_flight_.front().sent_ns;
}

}  // namespace tributary
