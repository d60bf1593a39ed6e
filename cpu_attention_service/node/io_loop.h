// The I/O thread of a node: polls the server, runs what other threads post, sleeps when there is
// nothing to do.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "base/clock.h"
#include "cpu_attention_service/node/attention_server.h"
#include "process/loop/loop_idle.h"
#include "process/loop/owner_loop.h"
#include "transport/data_plane.h"

namespace tributary {

// Thread-safe, but for Start() and Stop(): one thread calls those.
class IoLoop {
 public:
  using Work = std::function<void(AttentionServer& server)>;

  // All outlive the loop. From Start() to Stop() the server and the data plane are the loop's. `cpu`:
  // the core to pin the thread to, -1 for none.
  IoLoop(AttentionServer* server, DataPlane* data_plane, const Clock* clock, const IdleOptions& idle = {},
         int cpu = -1);
  ~IoLoop() = default;  // stops
  IoLoop(const IoLoop&) = delete;
  IoLoop& operator=(const IoLoop&) = delete;

  void Start() { loop_.Start(); }
  // Runs what was posted before, then ends the thread. Later work is refused.
  void Stop() { loop_.Stop(); }

  // Runs `work` on the I/O thread, some time. False, and never, after Stop().
  bool Post(Work work) { return loop_.Post(std::move(work)); }
  // Runs `work` on the I/O thread and waits for its end. DEADLINE_EXCEEDED if it has not begun
  // within the timeout (then it never will); UNAVAILABLE after Stop().
  absl::Status Run(const Work& work, int64_t timeout_ns);

 private:
  DataPlaneIdle idle_;
  OwnerLoop<Work> loop_;
};

}  // namespace tributary
