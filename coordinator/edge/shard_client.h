// Calls CpuAttention.OpenShard and CloseShard on the nodes, and reports each answer once.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "coordinator/core/coordinator_events.h"
#include "rpc/rpc_options.h"
#include "tributary/v1/cpu_attention.grpc.pb.h"

namespace tributary {

// Thread-safe.
class ShardClient {
 public:
  using Report = std::function<void(Event event)>;

  // `report` is called from gRPC's threads, until Shutdown() has returned.
  // `rpc`: of the channels to nodes.
  ShardClient(int64_t timeout_ns, Report report, RpcOptions rpc = {});
  ~ShardClient();

  void Open(const action::OpenShard& open);
  void Close(const action::CloseShard& close);
  // Forgets the channel: a restarted node must not wait for an old connection's backoff.
  void Forget(const std::string& address);
  // Waits for the calls under way.
  void Shutdown();

 private:
  std::shared_ptr<v1::CpuAttention::Stub> StubFor(const std::string& address);
  bool Begin();
  void Finish();

  const int64_t timeout_ns_;
  const Report report_;
  const RpcOptions rpc_;
  Mutex mutex_;
  CondVar idle_;
  int num_pending_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, std::shared_ptr<v1::CpuAttention::Stub>> stubs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tributary
