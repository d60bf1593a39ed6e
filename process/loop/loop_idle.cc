#include "process/loop/loop_idle.h"

namespace tributary {

void SleepIdle::AfterTurn(int num_events) {
  if (num_events > 0) return;
  const auto end = WaitEnd(deadline_ns_ - clock_->NowNs());
  MutexLock lock(&mutex_);
  while (!woken_ && changed_.WaitUntil(&mutex_, end)) {
  }
  woken_ = false;
}

void SleepIdle::Wake() {
  MutexLock lock(&mutex_);
  woken_ = true;
  changed_.NotifyOne();
}

}  // namespace tributary
