// Pairs the worker with a CPU attention node: CpuAttention.Connect.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "gpu_worker/remote/node_connector.h"
#include "rpc/rpc_options.h"
#include "tributary/v1/cpu_attention.grpc.pb.h"

namespace tributary {

// Thread-compatible: the loop's thread. Calls that are under way when it ends go on until their deadline, and tell
// nobody.
class NodeConnectClient final : public NodeConnector {
 public:
  // `data_plane_mac`: payloads of frames have a MAC; nodes that were not told the same refuse. `rpc`: of the channels.
  NodeConnectClient(std::string worker_id, uint64_t incarnation, bool data_plane_mac, int64_t timeout_ns,
                    RpcOptions rpc = {})
      : worker_id_(std::move(worker_id)),
        incarnation_(incarnation),
        data_plane_mac_(data_plane_mac),
        timeout_ns_(timeout_ns),
        rpc_(std::move(rpc)) {}

  // `done` gets the node's error, or FAILED_PRECONDITION for an answer of another frame version, another kind of data
  // plane or another node than asked for. Each names the node and its address.
  void BeginConnect(const NodeEndpoint& node, const TransportInfo& local, Done done) override;

 private:
  const std::string worker_id_;
  const uint64_t incarnation_;
  const bool data_plane_mac_;
  const int64_t timeout_ns_;
  const RpcOptions rpc_;
  // The key is address and incarnation: a restarted node gets a new connection.
  std::map<std::pair<std::string, uint64_t>, std::shared_ptr<v1::CpuAttention::Stub>> stubs_;
};

}  // namespace tributary
