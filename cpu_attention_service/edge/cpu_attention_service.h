// The gRPC adapter of a CPU attention node: checks messages, translates them, and lets the I/O
// thread do the rest.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "cpu_attention_service/node/io_loop.h"
#include "process/local_process.h"
#include "rpc/security/rpc_security.h"
#include "transport/data_plane.h"
#include "tributary/v1/cpu_attention.grpc.pb.h"

namespace tributary {

// FAILED_PRECONDITION, with both sides' values, unless two processes with these transports can
// exchange frames.
absl::Status CheckCompatible(const TransportInfo& ours, const TransportInfo& theirs);

// Thread-safe.
class CpuAttentionService final : public v1::CpuAttention::Service {
 public:
  // `loop` outlives the service; `transport` is the data plane's info(), `data_plane_mac` as in AttentionServerOptions.
  CpuAttentionService(std::string node_id, TransportInfo transport, bool data_plane_mac, IoLoop* loop,
                      std::shared_ptr<RpcSecurity> security = RpcSecurity::Open());

  grpc::Status Connect(grpc::ServerContext* context, const v1::ConnectRequest* request,
                       v1::ConnectResponse* response) override;
  grpc::Status Disconnect(grpc::ServerContext* context, const v1::DisconnectRequest* request,
                          v1::DisconnectResponse* response) override;
  grpc::Status OpenShard(grpc::ServerContext* context, const v1::OpenShardRequest* request,
                         v1::OpenShardResponse* response) override;
  grpc::Status CloseShard(grpc::ServerContext* context, const v1::CloseShardRequest* request,
                          v1::CloseShardResponse* response) override;

 private:
  // Asks who makes the call, before anything of it is looked at.
  absl::Status Admit(const grpc::ServerContext& context, RpcMethod method) const;
  absl::Status CheckConnect(const v1::ConnectRequest& request, TransportInfo* transport) const;
  // Runs `work` on the I/O thread within the call's deadline.
  absl::Status RunOnLoop(const grpc::ServerContext& context, const IoLoop::Work& work);

  const std::string node_id_;
  const TransportInfo transport_;
  const bool data_plane_mac_;
  const ProcessIdentity process_ = ThisProcess();
  IoLoop* const loop_;
  const std::shared_ptr<RpcSecurity> security_;
};

}  // namespace tributary
