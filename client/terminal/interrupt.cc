#include "client/terminal/interrupt.h"

#include <unistd.h>

#include <csignal>
#include <ctime>
#include <utility>

#include "client/terminal/output.h"

namespace tributary {
namespace {

constexpr int kExitInterrupted = 130;

sigset_t StopSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

Interrupt::Interrupt() {
  const sigset_t set = StopSet();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  thread_ = std::thread([this] { WaitForSignals(); });
}

Interrupt::~Interrupt() {
  finished_.store(true, std::memory_order_release);
  pthread_kill(thread_.native_handle(), SIGTERM);  // ends its sigwait
  thread_.join();
}

void Interrupt::SetHandler(std::function<void()> handler) {
  MutexLock lock(&mutex_);
  handler_ = std::move(handler);
  if (handler_ && stop_requested()) handler_();
}

void Interrupt::SetFilter(std::function<bool(int signal)> filter) {
  MutexLock lock(&mutex_);
  filter_ = std::move(filter);
}

ExitOnSignal::ExitOnSignal(Interrupt& stop) : stop_(stop) {
  stop_.SetHandler([] {
    WriteErr("tributary: interrupted\n");
    _exit(kExitInterrupted);
  });
}

void Interrupt::WaitForSignals() {
  const sigset_t set = StopSet();
  for (int signal = 0; sigwait(&set, &signal) == 0;) {
    if (finished_.load(std::memory_order_acquire)) return;
    if (stop_requested()) _exit(kExitInterrupted);
    MutexLock lock(&mutex_);
    if (filter_ && filter_(signal)) continue;
    stop_requested_.store(true, std::memory_order_release);
    if (handler_) handler_();
  }
}

}  // namespace tributary
