#include "coordinator/core/request_queue.h"

#include <algorithm>

#include "base/clock.h"

namespace tributary {

void RequestQueue::PushFront(SequenceId sequence) {
  waiting_.insert(waiting_.begin() + static_cast<std::ptrdiff_t>(num_returned_++), sequence);
}

void RequestQueue::Remove(SequenceId sequence) {
  const auto it = std::find(waiting_.begin(), waiting_.end(), sequence);
  if (it == waiting_.end()) return;
  if (static_cast<size_t>(it - waiting_.begin()) < num_returned_) --num_returned_;
  waiting_.erase(it);
}

int64_t RequestQueue::RetryDelay(size_t num_placed) const {
  const double rounds = static_cast<double>(size() + 1) / static_cast<double>(std::max<size_t>(num_placed, 1));
  const double delay_s = std::clamp(mean_duration_s_ * rounds, 0.25, 30.0);
  return static_cast<int64_t>(delay_s * static_cast<double>(kNsPerS));
}

}  // namespace tributary
