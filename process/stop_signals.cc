#include "process/stop_signals.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "base/log.h"

namespace tributary {

struct StopSignals::State {
  Mutex mutex;
  CondVar changed;
  bool requested ABSL_GUARDED_BY(mutex) = false;

  void Request() {
    MutexLock lock(&mutex);
    requested = true;
    changed.NotifyAll();
  }
};

namespace {

// Written by the handler: a signal handler may do little else. Masks and sigwait would not do, since libraries
// (OpenBLAS) have threads of their own before main() begins, which take signals that only later threads block.
int signal_pipe[2] = {-1, -1};

extern "C" void WriteSignal(int signal) {
  const int saved_errno = errno;
  const char byte = static_cast<char>(signal);
  [[maybe_unused]] const ssize_t written = write(signal_pipe[1], &byte, 1);
  errno = saved_errno;
}

int WaitForSignal() {
  char byte = 0;
  while (read(signal_pipe[0], &byte, 1) != 1) {
  }
  return byte;
}

}  // namespace

StopSignals::StopSignals() : state_(std::make_shared<State>()) {
  TRIBUTARY_CHECK_EQ(signal_pipe[0], -1);  // one per process
  TRIBUTARY_CHECK_EQ(pipe2(signal_pipe, O_CLOEXEC), 0);
  struct sigaction action = {};
  action.sa_handler = WriteSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  // Detached: it waits until the process ends.
  std::thread([state = state_] {
    LOG_INFO("{}: stopping; a second one ends the process at once", strsignal(WaitForSignal()));
    state->Request();
    LOG_WARN("{} again: exiting now", strsignal(WaitForSignal()));
    _exit(1);
  }).detach();
}

bool StopSignals::requested() const {
  MutexLock lock(&state_->mutex);
  return state_->requested;
}

void StopSignals::Request() { state_->Request(); }

bool StopSignals::Wait(int64_t timeout_ns) {
  State& state = *state_;
  const auto end = WaitEnd(timeout_ns);
  MutexLock lock(&state.mutex);
  while (!state.requested) {
    if (timeout_ns < 0) {
      state.changed.Wait(&state.mutex);
    } else if (!state.changed.WaitUntil(&state.mutex, end)) {
      break;
    }
  }
  return state.requested;
}

void Refusal::Set(const absl::Status& status) {
  {
    MutexLock lock(&mutex_);
    status_ = status;
  }
  stop_->Request();
}

absl::Status Refusal::Get() const {
  MutexLock lock(&mutex_);
  return status_;
}

}  // namespace tributary
