#include "base/process.h"

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "fmt/format.h"

namespace tributary {

absl::Status WritePortFile(const std::string& path, const std::string& listen_address,
                           const std::string& metrics_address) {
  const std::string part = fmt::format("{}.{}.part", path, getpid());
  std::ofstream file(part);
  file << fmt::format("{{\"listen\": \"{}\", \"metrics\": \"{}\"}}\n", listen_address,
                      metrics_address);
  file.close();
  if (!file || std::rename(part.c_str(), path.c_str()) != 0) {
    const std::string reason = std::strerror(errno);
    std::remove(part.c_str());
    return absl::UnavailableError(
        fmt::format("cannot write --port-file '{}': {}; does the folder exist?", path, reason));
  }
  return absl::OkStatus();
}

struct StopSignals::State {
  std::mutex mutex;
  std::condition_variable changed;
  bool requested = false;
};

StopSignals::StopSignals() : state_(std::make_shared<State>()) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // Detached: it waits until the process ends.
  std::thread([signals, state = state_] {
    int signal = 0;
    sigwait(&signals, &signal);
    LOG_INFO("{}: stopping; a second one ends the process at once", strsignal(signal));
    {
      std::lock_guard lock(state->mutex);
      state->requested = true;
      state->changed.notify_all();
    }
    sigwait(&signals, &signal);
    LOG_WARN("{} again: exiting now", strsignal(signal));
    _exit(1);
  }).detach();
}

bool StopSignals::requested() const {
  std::lock_guard lock(state_->mutex);
  return state_->requested;
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

}  // namespace tributary
