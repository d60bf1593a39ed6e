#include "gpu_worker/edge/node_connect_client.h"

#include <chrono>
#include <cstring>

#include "base/clock.h"
#include "base/status.h"
#include "base/version.h"
#include "fmt/format.h"
#include "process/local_process.h"
#include "proto/convert.h"
#include "rpc/grpc_channel.h"
#include "rpc/grpc_status.h"

namespace tributary {
namespace {

class LocalPeer final : public PeerProcess {
 public:
  explicit LocalPeer(std::unique_ptr<ProcessWatch> watch) : watch_(std::move(watch)) {}
  bool HasEnded() override { return watch_->HasEnded(); }

 private:
  const std::unique_ptr<ProcessWatch> watch_;
};

std::shared_ptr<PeerProcess> WatchIfLocal(const v1::LocalProcess& process) {
  auto watch = ProcessWatch::Open({process.boot_id(), process.pid_namespace(), process.pid(), process.start_ticks()});
  return watch == nullptr ? nullptr : std::make_shared<LocalPeer>(std::move(watch));
}

// One call, from its request to its answer.
struct Call {
  std::shared_ptr<v1::CpuAttention::Stub> stub;
  NodeEndpoint node;
  std::string transport;
  bool data_plane_mac = false;
  grpc::ClientContext context;
  v1::ConnectRequest request;
  v1::ConnectResponse response;
  NodeConnector::Done done;

  absl::StatusOr<NodeSession> Session(const grpc::Status& status) const;
};

absl::StatusOr<NodeSession> Call::Session(const grpc::Status& status) const {
  TRIBUTARY_RETURN_IF_ERROR(FromGrpcStatus(status));
  NodeSession session;
  TRIBUTARY_ASSIGN_OR_RETURN(session.transport, TransportInfoFromProto(response.transport()));
  if (session.transport.name != transport) {
    return absl::FailedPreconditionError(
        fmt::format("its data plane is '{}', this worker's is '{}'", session.transport.name, transport));
  }
  if (response.node_id() != node.node_id) {
    return absl::FailedPreconditionError(fmt::format("another node, '{}', answers there", response.node_id()));
  }
  if (response.session_key().size() != sizeof(SipKey)) {
    return absl::FailedPreconditionError(
        fmt::format("its session key has {} bytes, not {}", response.session_key().size(), sizeof(SipKey)));
  }
  const size_t payload_key_bytes = data_plane_mac ? sizeof(MacKey) : 0;
  if (response.payload_key().size() != payload_key_bytes) {
    return absl::FailedPreconditionError(fmt::format("its payload key has {} bytes, not {}: {} --data-plane-mac",
                                                     response.payload_key().size(), payload_key_bytes,
                                                     data_plane_mac ? "it lacks" : "it has"));
  }
  session.session_id = SessionId(response.session_id());
  std::memcpy(session.keys.header.data(), response.session_key().data(), sizeof(SipKey));
  if (data_plane_mac) {
    std::memcpy(session.keys.payload.emplace().data(), response.payload_key().data(), sizeof(MacKey));
  }
  session.epoch = Epoch(response.epoch());
  session.node_id = response.node_id();
  session.process = WatchIfLocal(response.process());
  return session;
}

}  // namespace

void NodeConnectClient::BeginConnect(const NodeEndpoint& node, const TransportInfo& local, Done done) {
  auto& stub = stubs_[{node.control_address, node.incarnation}];
  if (stub == nullptr) stub = v1::CpuAttention::NewStub(MakeChannel(node.control_address, rpc_));
  const auto call = std::make_shared<Call>();
  call->stub = stub;
  call->node = node;
  call->transport = local.name;
  call->data_plane_mac = data_plane_mac_;
  call->done = std::move(done);
  call->request.set_worker_id(worker_id_);
  call->request.set_worker_incarnation(incarnation_);
  call->request.set_protocol_version(kProtocolVersion);
  call->request.set_data_plane_mac(data_plane_mac_);
  *call->request.mutable_transport() = TransportInfoToProto(local);
  call->context.set_deadline(std::chrono::system_clock::now() + std::chrono::nanoseconds(timeout_ns_));
  // The lambda keeps the call until it has run.
  call->stub->async()->Connect(&call->context, &call->request, &call->response, [call](const grpc::Status& status) {
    absl::StatusOr<NodeSession> session = call->Session(status);
    if (!session.ok()) {
      session = absl::Status(session.status().code(),
                             fmt::format("pairing with CPU attention node '{}' at {} failed: {}", call->node.node_id,
                                         call->node.control_address, std::string(session.status().message())));
    }
    call->done(std::move(session));
  });
}

}  // namespace tributary
