#include "cpu_attention_service/node/io_loop.h"

#include <chrono>
#include <condition_variable>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/thread_pool.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// Shared by the caller of Run() and the I/O thread; whoever is last frees it.
struct Call {
  enum class State { kWaiting, kRunning, kDone, kGivenUp };
  std::mutex mutex;
  std::condition_variable changed;
  State state = State::kWaiting;

  // False if the caller has given up.
  bool Begin() {
    std::lock_guard lock(mutex);
    if (state == State::kGivenUp) return false;
    state = State::kRunning;
    return true;
  }
  void End() {
    {
      std::lock_guard lock(mutex);
      state = State::kDone;
    }
    changed.notify_all();
  }
  // False if it did not begin in time. Once begun, it is waited for: it uses the caller's memory.
  bool Wait(int64_t timeout_ns) {
    std::unique_lock lock(mutex);
    const auto begun = [&] { return state != State::kWaiting; };
    if (!changed.wait_for(lock, std::chrono::nanoseconds(timeout_ns), begun)) {
      state = State::kGivenUp;
      return false;
    }
    changed.wait(lock, [&] { return state == State::kDone; });
    return true;
  }
};

}  // namespace

IoLoop::IoLoop(AttentionServer* server, DataPlane* data_plane, const Clock* clock, const IdleOptions& idle, int cpu)
    : server_(server), data_plane_(data_plane), clock_(clock), idle_options_(idle), cpu_(cpu) {}

IoLoop::~IoLoop() { Stop(); }

void IoLoop::Start() {
  TRIBUTARY_CHECK(!thread_.joinable());
  thread_ = std::thread([this] { ThreadMain(); });
}

void IoLoop::Stop() {
  {
    std::lock_guard lock(mutex_);
    accepting_ = false;
  }
  stopping_.store(true, std::memory_order_release);
  data_plane_->Wake();
  if (thread_.joinable()) thread_.join();
}

bool IoLoop::Post(Work work) {
  {
    std::lock_guard lock(mutex_);
    if (!accepting_) return false;
    posted_.push_back(std::move(work));
    has_posted_.store(true, std::memory_order_release);
  }
  data_plane_->Wake();
  return true;
}

absl::Status IoLoop::Run(const Work& work, int64_t timeout_ns) {
  auto call = std::make_shared<Call>();
  const bool posted = Post([call, &work](AttentionServer& server) {
    if (!call->Begin()) return;
    work(server);
    call->End();
  });
  if (!posted) return absl::UnavailableError("the node is stopping; use another one");
  if (!call->Wait(timeout_ns)) {
    return absl::DeadlineExceededError(
        fmt::format("the node's I/O thread was busy for {:.3f} s; try again", SecondsFromNs(timeout_ns)));
  }
  return absl::OkStatus();
}

void IoLoop::ThreadMain() {
  if (cpu_ >= 0) PinThisThread(cpu_);  // best effort
  IdleStrategy idle(idle_options_, clock_);
  while (!stopping_.load(std::memory_order_acquire)) {
    const int num_posted = RunPosted();
    idle.AfterPoll(num_posted + server_->Poll(), *data_plane_);
  }
  RunPosted();
  server_->Poll();
}

int IoLoop::RunPosted() {
  if (!has_posted_.load(std::memory_order_acquire)) return 0;
  {
    std::lock_guard lock(mutex_);
    running_.swap(posted_);
    has_posted_.store(false, std::memory_order_relaxed);
  }
  for (const Work& work : running_) work(*server_);
  const int count = static_cast<int>(running_.size());
  running_.clear();
  return count;
}

}  // namespace tributary
