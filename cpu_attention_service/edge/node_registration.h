// Keeps a node known to the coordinator: registers, sends heartbeats, frees orphaned shards.
//
// A coordinator that is not there (yet) is retried for ever, with growing pauses. A refusal that no
// retry can mend (another protocol version, say) is reported once through `on_refused`.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "cpu_attention_service/node/io_loop.h"
#include "rpc/rpc_options.h"
#include "tributary/v1/coordinator.grpc.pb.h"

namespace tributary {

class NodeRegistration {
 public:
  // `coordinator`: host:port. `node` says all that the coordinator is told at registration. `loop`
  // outlives the registration. `on_refused` is called on the registration's thread, which then
  // ends. `rpc`: of the channel to the coordinator.
  NodeRegistration(std::string coordinator, v1::NodeInfo node, IoLoop* loop,
                   std::function<void(const absl::Status&)> on_refused, RpcOptions rpc = {});
  ~NodeRegistration();  // stops
  NodeRegistration(const NodeRegistration&) = delete;
  NodeRegistration& operator=(const NodeRegistration&) = delete;

  void Start();
  // Asks the coordinator, at once and with every heartbeat, for no more shards; those it has opened stay.
  void SetDraining();
  // Two heartbeats in a row failed: nobody is left to close shards.
  bool coordinator_is_gone() const { return num_failures_ >= 2; }
  // Ends the thread and tells the coordinator, if it answers at once, that the node drains.
  void Stop();

 private:
  void ThreadMain();
  // How long to wait before the next try; sets registered_.
  int64_t Register();
  int64_t SendHeartbeat();
  absl::Status Heartbeat(bool draining, int64_t timeout_ns);
  // Shorter when SetDraining() is called meanwhile; false when Stop() is.
  bool Pause(int64_t pause_ns);

  const std::string coordinator_;
  const v1::NodeInfo node_;
  IoLoop* const loop_;
  const std::function<void(const absl::Status&)> on_refused_;
  const RpcOptions rpc_;
  std::unique_ptr<v1::NodeRegistry::Stub> stub_;

  // The thread alone uses these.
  bool registered_ = false;
  bool refused_ = false;
  int64_t heartbeat_interval_ns_ = 0;
  int64_t backoff_ns_ = 0;
  std::atomic<uint64_t> num_failures_{0};  // since the last success

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool drain_due_ ABSL_GUARDED_BY(mutex_) = false;  // the coordinator has not been told
  std::thread thread_;
};

}  // namespace tributary
