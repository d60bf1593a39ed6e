// Keeps a node known to the coordinator: registers, sends heartbeats, frees orphaned shards.
//
// A coordinator that is not there (yet) is retried for ever, with growing pauses. A refusal that no
// retry can mend (another protocol version, say) is reported once through `on_refused`, and so is an id that another
// process still has after some seconds.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "cpu_attention_service/node/io_loop.h"
#include "rpc/rpc_options.h"
#include "tributary/v1/coordinator.grpc.pb.h"

namespace tributary {

class NodeRegistration {
 public:
  // `coordinator`: host:port. `node` says all that the coordinator is told at registration. `loop`
  // outlives the registration. `on_refused` is called on the registration's thread, which then
  // ends. `rpc`: of the channel to the coordinator. `id_patience_ns`: for another process with this id to end; by
  // default twice the coordinator's default node timeout.
  NodeRegistration(std::string coordinator, v1::NodeInfo node, IoLoop* loop,
                   std::function<void(const absl::Status&)> on_refused, RpcOptions rpc = {},
                   int64_t id_patience_ns = 10 * kNsPerS);
  ~NodeRegistration();  // stops
  NodeRegistration(const NodeRegistration&) = delete;
  NodeRegistration& operator=(const NodeRegistration&) = delete;

  void Start();
  // Asks the coordinator, at once and with every heartbeat, for no more shards; those it has opened stay.
  void SetDraining();
  // Two heartbeats in a row failed: nobody is left to close shards.
  bool coordinator_is_gone() const { return num_failures_ >= 2; }
  // Ends the thread and tells the coordinator, if it answers at once, that the node leaves.
  void Stop();

 private:
  void ThreadMain();
  // How long to wait before the next try; sets registered_.
  int64_t Register();
  int64_t SendHeartbeat();
  // What the node is about to do.
  struct Intent {
    bool draining = false;
    bool leaving = false;
  };
  absl::Status Heartbeat(Intent intent, int64_t timeout_ns);
  // The id is another process's, which may have ended: whether to ask once more.
  bool MayWaitForId(const absl::Status& status);
  // Shorter when SetDraining() is called meanwhile; false when Stop() is.
  bool Pause(int64_t pause_ns);

  const std::string coordinator_;
  const v1::NodeInfo node_;
  IoLoop* const loop_;
  const std::function<void(const absl::Status&)> on_refused_;
  const RpcOptions rpc_;
  const int64_t id_patience_ns_;
  std::unique_ptr<v1::NodeRegistry::Stub> stub_;

  // The thread alone uses these.
  bool registered_ = false;
  bool refused_ = false;
  int64_t heartbeat_interval_ns_ = 0;
  int64_t backoff_ns_ = 0;
  std::optional<int64_t> id_wait_end_ns_;  // while another process has the id
  std::atomic<uint64_t> num_failures_{0};  // since the last success

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool drain_due_ ABSL_GUARDED_BY(mutex_) = false;  // the coordinator has not been told
  std::thread thread_;
};

}  // namespace tributary
