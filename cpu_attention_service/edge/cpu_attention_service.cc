#include "cpu_attention_service/edge/cpu_attention_service.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "base/status.h"
#include "base/version.h"
#include "fmt/format.h"
#include "proto/convert.h"
#include "proto/outside_strings.h"
#include "rpc/grpc_status.h"

namespace tributary {
namespace {

constexpr int64_t kMaxWaitNs = 5 * kNsPerS;        // for the I/O thread, unless the call has less
constexpr int64_t kPoolFullRetryNs = 1 * kNsPerS;  // told to whoever finds the pool full

// The transports that a UCX_TLS list allows between processes, aliases spelled out. Empty: cannot
// tell.
std::set<std::string> TransportsBetweenProcesses(const std::string& list) {
  constexpr std::array<std::string_view, 5> kSharedMemory = {"posix", "sysv", "xpmem", "cma", "knem"};
  std::set<std::string> names;
  std::istringstream words(list);
  for (std::string word; std::getline(words, word, ',');) {
    if (word.empty() || word == "self") continue;
    if (word[0] == '^' || word == "all") return {};
    if (word == "shm" || word == "sm" || word == "mm") {
      names.insert(kSharedMemory.begin(), kSharedMemory.end());
    } else {
      names.insert(word);
    }
  }
  return names;
}

int64_t RemainingNs(const grpc::ServerContext& context) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  const int64_t left_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
  return std::clamp<int64_t>(left_ns, 0, kMaxWaitNs);
}

}  // namespace

absl::Status CheckCompatible(const TransportInfo& ours, const TransportInfo& theirs) {
  if (ours.name != theirs.name) {
    return absl::FailedPreconditionError(fmt::format(
        "the worker's data plane is '{}', this node's is '{}'; both must be of one kind", theirs.name, ours.name));
  }
  const std::set<std::string> our_names = TransportsBetweenProcesses(ours.transports);
  const std::set<std::string> their_names = TransportsBetweenProcesses(theirs.transports);
  if (our_names.empty() || their_names.empty()) return absl::OkStatus();
  for (const std::string& name : our_names) {
    if (their_names.contains(name)) return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      fmt::format("no common transport: this node has '{}', the worker has '{}'; start both with "
                  "the same --transport-tls",
                  ours.transports, theirs.transports));
}

CpuAttentionService::CpuAttentionService(std::string node_id, TransportInfo transport, bool data_plane_mac,
                                         IoLoop* loop, std::shared_ptr<RpcSecurity> security)
    : node_id_(std::move(node_id)),
      transport_(std::move(transport)),
      data_plane_mac_(data_plane_mac),
      loop_(loop),
      security_(std::move(security)) {}

absl::Status CpuAttentionService::Admit(const grpc::ServerContext& context, RpcMethod method) const {
  return security_->access().Check(context, method);
}

absl::Status CpuAttentionService::RunOnLoop(const grpc::ServerContext& context, const IoLoop::Work& work) {
  return loop_->Run(work, RemainingNs(context));
}

absl::Status CpuAttentionService::CheckConnect(const v1::ConnectRequest& request, TransportInfo* transport) const {
  TRIBUTARY_RETURN_IF_ERROR(CheckOutsideStrings(request));
  if (request.protocol_version() != kProtocolVersion) {
    return absl::FailedPreconditionError(
        fmt::format("worker '{}' speaks protocol version {}, node {} speaks {}; run the same "
                    "release on both",
                    request.worker_id(), request.protocol_version(), node_id_, kProtocolVersion));
  }
  if (request.data_plane_mac() != data_plane_mac_) {
    return absl::FailedPreconditionError(
        fmt::format("worker '{}' was started {} --data-plane-mac, node {} {} it; start both alike", request.worker_id(),
                    request.data_plane_mac() ? "with" : "without", node_id_, data_plane_mac_ ? "with" : "without"));
  }
  if (request.worker_id().empty()) {
    return absl::InvalidArgumentError(
        fmt::format("worker_id is empty; it must have 1 to {} bytes", limits::kMaxNodeIdBytes));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(*transport, TransportInfoFromProto(request.transport()));
  return CheckCompatible(transport_, *transport);
}

grpc::Status CpuAttentionService::Connect(grpc::ServerContext* context, const v1::ConnectRequest* request,
                                          v1::ConnectResponse* response) {
  if (const absl::Status status = Admit(*context, RpcMethod::kConnect); !status.ok()) return ToGrpcStatus(status);
  TransportInfo worker;
  if (absl::Status status = CheckConnect(*request, &worker); !status.ok()) {
    return ToGrpcStatus(status);
  }
  absl::StatusOr<SessionGrant> grant = absl::UnknownError("not run");
  const absl::Status status = RunOnLoop(*context, [&](AttentionServer& server) {
    grant = server.OpenSession({request->worker_id(), request->worker_incarnation()}, worker.address);
  });
  if (!status.ok()) return ToGrpcStatus(status);
  if (!grant.ok()) return ToGrpcStatus(grant.status());
  *response->mutable_transport() = TransportInfoToProto(transport_);
  response->set_session_id(grant->session_id.value);
  static_assert(sizeof(SipKey) == 16);
  response->set_session_key(grant->keys.header.data(), sizeof(SipKey));
  if (grant->keys.payload) response->set_payload_key(grant->keys.payload->data(), sizeof(MacKey));
  response->set_epoch(grant->epoch.value);
  response->set_node_id(node_id_);
  v1::LocalProcess& process = *response->mutable_process();
  process.set_boot_id(process_.boot_id);
  process.set_pid_namespace(process_.pid_namespace);
  process.set_pid(process_.pid);
  process.set_start_ticks(process_.start_ticks);
  return grpc::Status::OK;
}

grpc::Status CpuAttentionService::Disconnect(grpc::ServerContext* context, const v1::DisconnectRequest* request,
                                             v1::DisconnectResponse* response) {
  if (const absl::Status status = Admit(*context, RpcMethod::kDisconnect); !status.ok()) return ToGrpcStatus(status);
  return ToGrpcStatus(
      RunOnLoop(*context, [&](AttentionServer& server) { server.CloseSession(SessionId(request->session_id())); }));
}

grpc::Status CpuAttentionService::OpenShard(grpc::ServerContext* context, const v1::OpenShardRequest* request,
                                            v1::OpenShardResponse* response) {
  if (const absl::Status status = Admit(*context, RpcMethod::kOpenShard); !status.ok()) return ToGrpcStatus(status);
  if (const absl::Status status = CheckOutsideStrings(*request); !status.ok()) return ToGrpcStatus(status);
  const absl::StatusOr<ShardSpec> spec = ShardSpecFromProto(request->shard());
  if (!spec.ok()) return ToGrpcStatus(spec.status());
  const absl::StatusOr<WorkerIdentity> worker = WorkerIdentityFromProto(request->worker());
  if (!worker.ok()) return ToGrpcStatus(worker.status());
  absl::StatusOr<uint64_t> reserved_bytes = absl::UnknownError("not run");
  const absl::Status status = RunOnLoop(*context, [&](AttentionServer& server) {
    reserved_bytes = server.OpenShard(*spec, *worker);
    response->set_free_bytes(server.free_bytes());
  });
  if (!status.ok()) return ToGrpcStatus(status);
  if (absl::IsResourceExhausted(reserved_bytes.status())) {
    return ToGrpcStatus(reserved_bytes.status(), kPoolFullRetryNs);
  }
  if (!reserved_bytes.ok()) return ToGrpcStatus(reserved_bytes.status());
  response->set_reserved_bytes(*reserved_bytes);
  return grpc::Status::OK;
}

grpc::Status CpuAttentionService::CloseShard(grpc::ServerContext* context, const v1::CloseShardRequest* request,
                                             v1::CloseShardResponse* response) {
  if (const absl::Status status = Admit(*context, RpcMethod::kCloseShard); !status.ok()) return ToGrpcStatus(status);
  absl::Status closed;
  const absl::Status status = RunOnLoop(*context, [&](AttentionServer& server) {
    closed = server.CloseShard(ShardId(request->shard_id()), Epoch(request->epoch()));
    response->set_free_bytes(server.free_bytes());
  });
  return ToGrpcStatus(status.ok() ? closed : status);
}

}  // namespace tributary
