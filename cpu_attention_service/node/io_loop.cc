#include "cpu_attention_service/node/io_loop.h"

#include <memory>
#include <utility>

#include "base/mutex.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// Shared by the caller of Run() and the I/O thread; whoever is last frees it.
class Call {
 public:
  // False if the caller has given up.
  bool Begin() {
    MutexLock lock(&mutex_);
    if (state_ == State::kGivenUp) return false;
    state_ = State::kRunning;
    return true;
  }
  void End() {
    MutexLock lock(&mutex_);
    state_ = State::kDone;
    changed_.NotifyAll();
  }
  // False if it did not begin in time. Once begun, it is waited for: it uses the caller's memory.
  bool Wait(int64_t timeout_ns) {
    const auto end = WaitEnd(timeout_ns);
    MutexLock lock(&mutex_);
    while (state_ == State::kWaiting && changed_.WaitUntil(&mutex_, end)) {
    }
    if (state_ == State::kWaiting) {
      state_ = State::kGivenUp;
      return false;
    }
    while (state_ != State::kDone) changed_.Wait(&mutex_);
    return true;
  }

 private:
  enum class State { kWaiting, kRunning, kDone, kGivenUp };
  Mutex mutex_;
  CondVar changed_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kWaiting;
};

}  // namespace

IoLoop::IoLoop(AttentionServer* server, DataPlane* data_plane, const Clock* clock, const IdleOptions& idle, int cpu)
    : idle_(data_plane, clock, idle),
      loop_(
          {.run_rest_at_stop = true, .cpu = cpu}, &idle_, [server](Work& work) { work(*server); },
          [server] { return server->Poll(); }) {}

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

}  // namespace tributary
