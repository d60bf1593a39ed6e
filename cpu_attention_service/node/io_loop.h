// The I/O thread of a node: polls the server, runs what other threads post, sleeps when there is
// nothing to do.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "cpu_attention_service/node/attention_server.h"
#include "transport/data_plane.h"
#include "transport/idle_strategy.h"

namespace tributary {

// Thread-safe, but for Start() and Stop(): one thread calls those.
class IoLoop {
 public:
  using Work = std::function<void(AttentionServer& server)>;

  // All outlive the loop. From Start() to Stop() the server and the data plane are the loop's. `cpu`:
  // the core to pin the thread to, -1 for none.
  IoLoop(AttentionServer* server, DataPlane* data_plane, const Clock* clock, const IdleOptions& idle = {},
         int cpu = -1);
  ~IoLoop();  // stops
  IoLoop(const IoLoop&) = delete;
  IoLoop& operator=(const IoLoop&) = delete;

  void Start();
  // Runs what was posted before, then ends the thread. Later work is refused.
  void Stop();

  // Runs `work` on the I/O thread, some time. False, and never, after Stop().
  bool Post(Work work);
  // Runs `work` on the I/O thread and waits for its end. DEADLINE_EXCEEDED if it has not begun
  // within the timeout (then it never will); UNAVAILABLE after Stop().
  absl::Status Run(const Work& work, int64_t timeout_ns);

 private:
  void ThreadMain();
  int RunPosted();

  AttentionServer* const server_;
  DataPlane* const data_plane_;
  const Clock* const clock_;
  const IdleOptions idle_options_;
  const int cpu_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> has_posted_{false};
  std::mutex mutex_;
  bool accepting_ = true;     // guarded by mutex_
  std::vector<Work> posted_;  // guarded by mutex_
  std::vector<Work> running_;
  std::thread thread_;
};

}  // namespace tributary
