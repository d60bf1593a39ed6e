#include "base/process.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <mutex>
#include <random>
#include <thread>

#include "base/check.h"
#include "base/log.h"
#include "fmt/format.h"

namespace tributary {

absl::Status WritePortFile(const std::string& path, const std::string& listen_address,
                           const std::string& metrics_address) {
  const std::string part = fmt::format("{}.{}.part", path, getpid());
  std::ofstream file(part);
  file << fmt::format("{{\"listen\": \"{}\", \"metrics\": \"{}\"}}\n", listen_address, metrics_address);
  file.close();
  if (!file || std::rename(part.c_str(), path.c_str()) != 0) {
    const std::string reason = std::strerror(errno);
    std::remove(part.c_str());
    return absl::UnavailableError(
        fmt::format("cannot write --port-file '{}': {}; does the folder exist?", path, reason));
  }
  return absl::OkStatus();
}

uint64_t RandomIncarnation() {
  std::random_device device;
  const uint64_t value = (uint64_t{device()} << 32) | device();
  return value != 0 ? value : 1;  // 0 means unset in messages
}

struct StopSignals::State {
  std::mutex mutex;
  std::condition_variable changed;
  bool requested = false;
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
    {
      std::lock_guard lock(state->mutex);
      state->requested = true;
      state->changed.notify_all();
    }
    LOG_WARN("{} again: exiting now", strsignal(WaitForSignal()));
    _exit(1);
  }).detach();
}

bool StopSignals::requested() const {
  std::lock_guard lock(state_->mutex);
  return state_->requested;
}

void StopSignals::Request() {
  std::lock_guard lock(state_->mutex);
  state_->requested = true;
  state_->changed.notify_all();
}

bool StopSignals::Wait(int64_t timeout_ns) {
  std::unique_lock lock(state_->mutex);
  const auto asked = [this] { return state_->requested; };
  if (timeout_ns < 0) {
    state_->changed.wait(lock, asked);
    return true;
  }
  return state_->changed.wait_for(lock, std::chrono::nanoseconds(timeout_ns), asked);
}

void Refusal::Set(const absl::Status& status) {
  {
    std::lock_guard lock(mutex_);
    status_ = status;
  }
  stop_->Request();
}

absl::Status Refusal::Get() const {
  std::lock_guard lock(mutex_);
  return status_;
}

}  // namespace tributary
