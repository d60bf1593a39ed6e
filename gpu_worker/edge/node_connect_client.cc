#include "gpu_worker/edge/node_connect_client.h"

#include <chrono>
#include <cstring>

#include "base/status.h"
#include "base/version.h"
#include "fmt/format.h"
#include "proto/convert.h"
#include "rpc/grpc_channel.h"
#include "rpc/grpc_status.h"

namespace tributary {

absl::StatusOr<NodeSession> NodeConnectClient::Connect(const NodeEndpoint& node, const TransportInfo& local) {
  absl::StatusOr<NodeSession> session = Pair(node, local);
  if (session.ok()) return session;
  const absl::Status& status = session.status();
  return absl::Status(status.code(), fmt::format("pairing with CPU attention node '{}' at {} failed: {}", node.node_id,
                                                 node.control_address, std::string(status.message())));
}

absl::StatusOr<NodeSession> NodeConnectClient::Pair(const NodeEndpoint& node, const TransportInfo& local) {
  auto& stub = stubs_[{node.control_address, node.incarnation}];
  if (stub == nullptr) stub = v1::CpuAttention::NewStub(MakeChannel(node.control_address, rpc_));
  v1::ConnectRequest request;
  request.set_worker_id(worker_id_);
  request.set_worker_incarnation(incarnation_);
  request.set_protocol_version(kProtocolVersion);
  request.set_data_plane_mac(data_plane_mac_);
  *request.mutable_transport() = TransportInfoToProto(local);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::nanoseconds(timeout_ns_));
  v1::ConnectResponse response;
  TRIBUTARY_RETURN_IF_ERROR(FromGrpcStatus(stub->Connect(&context, request, &response)));

  NodeSession session;
  TRIBUTARY_ASSIGN_OR_RETURN(session.transport, TransportInfoFromProto(response.transport()));
  if (session.transport.name != local.name) {
    return absl::FailedPreconditionError(
        fmt::format("its data plane is '{}', this worker's is '{}'", session.transport.name, local.name));
  }
  if (response.node_id() != node.node_id) {
    return absl::FailedPreconditionError(fmt::format("another node, '{}', answers there", response.node_id()));
  }
  if (response.session_key().size() != sizeof(SipKey)) {
    return absl::FailedPreconditionError(
        fmt::format("its session key has {} bytes, not {}", response.session_key().size(), sizeof(SipKey)));
  }
  const size_t payload_key_bytes = data_plane_mac_ ? sizeof(MacKey) : 0;
  if (response.payload_key().size() != payload_key_bytes) {
    return absl::FailedPreconditionError(fmt::format("its payload key has {} bytes, not {}: {} --data-plane-mac",
                                                     response.payload_key().size(), payload_key_bytes,
                                                     data_plane_mac_ ? "it lacks" : "it has"));
  }
  session.session_id = SessionId(response.session_id());
  std::memcpy(session.keys.header.data(), response.session_key().data(), sizeof(SipKey));
  if (data_plane_mac_) {
    std::memcpy(session.keys.payload.emplace().data(), response.payload_key().data(), sizeof(MacKey));
  }
  session.epoch = Epoch(response.epoch());
  session.node_id = response.node_id();
  return session;
}

}  // namespace tributary
