// Calls every method that is for members of a cluster, as somebody who may or may not be one, and says how each ended.
//
// usage: hostile_peer COORDINATOR NODE [--role ROLE] [--tls-cert F --tls-key F --tls-ca F] [--cluster-secret-file F]
//
// Prints "METHOD CODE message" for each, but for what a node with a certificate may do. The requests would do harm if
// they were taken: a node "cpu-0" that displaces the real one, a worker "gpu-0" at its side, a drain in another's name,
// a UCX address of rubbish, shards.
#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "base/version.h"
#include "grpcpp/grpcpp.h"
#include "rpc/grpc_channel.h"
#include "rpc/security/rpc_security.h"
#include "tributary/v1/coordinator.grpc.pb.h"
#include "tributary/v1/cpu_attention.grpc.pb.h"

namespace tributary {
namespace {

constexpr auto kTimeout = std::chrono::seconds(20);

void Say(const char* method, const grpc::Status& status) {
  std::printf("%s %d %s\n", method, static_cast<int>(status.error_code()), status.error_message().c_str());
}

template <typename Call>
void Try(const char* method, Call call) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  Say(method, call(context));
}

v1::NodeInfo Usurper(const char* node_id, v1::NodeRole role) {
  v1::NodeInfo node;
  node.mutable_endpoint()->set_node_id(node_id);
  node.mutable_endpoint()->set_incarnation(666);
  node.mutable_endpoint()->set_control_address("127.0.0.1:1");
  node.set_role(role);
  node.set_protocol_version(kProtocolVersion);
  node.set_kv_capacity_bytes(uint64_t{1} << 40);
  node.set_extent_bytes(4096);
  return node;
}

void ActAsNode(v1::NodeRegistry::Stub* stub) {
  Try("Register", [&](grpc::ClientContext& context) {
    v1::RegisterRequest request;
    *request.mutable_node() = Usurper("cpu-0", v1::NODE_ROLE_CPU_ATTENTION);
    v1::RegisterResponse response;
    return stub->Register(&context, request, &response);
  });
  Try("Heartbeat", [&](grpc::ClientContext& context) {
    v1::HeartbeatRequest request;
    request.set_node_id("cpu-0");
    request.set_draining(true);
    v1::HeartbeatResponse response;
    return stub->Heartbeat(&context, request, &response);
  });
}

void ActAsWorker(v1::NodeRegistry::Stub* stub) {
  Try("WorkerChannel", [&](grpc::ClientContext& context) {
    const auto stream = stub->WorkerChannel(&context);
    v1::WorkerEvent hello;
    *hello.mutable_hello() = Usurper("gpu-0", v1::NODE_ROLE_GPU_WORKER);
    stream->Write(hello);
    v1::WorkerCommand command;
    while (stream->Read(&command)) {
    }
    return stream->Finish();
  });
}

void AttackNode(const std::shared_ptr<grpc::Channel>& channel) {
  const auto stub = v1::CpuAttention::NewStub(channel);
  Try("Connect", [&](grpc::ClientContext& context) {
    v1::ConnectRequest request;
    request.set_worker_id("gpu-0");
    request.set_worker_incarnation(666);
    request.set_protocol_version(kProtocolVersion);
    request.mutable_transport()->set_name("ucx");
    request.mutable_transport()->set_address(std::string(64, '\xff'));
    v1::ConnectResponse response;
    return stub->Connect(&context, request, &response);
  });
  Try("Disconnect", [&](grpc::ClientContext& context) {
    v1::DisconnectResponse response;
    return stub->Disconnect(&context, v1::DisconnectRequest(), &response);
  });
  Try("OpenShard", [&](grpc::ClientContext& context) {
    v1::OpenShardResponse response;
    return stub->OpenShard(&context, v1::OpenShardRequest(), &response);
  });
  Try("CloseShard", [&](grpc::ClientContext& context) {
    v1::CloseShardResponse response;
    return stub->CloseShard(&context, v1::CloseShardRequest(), &response);
  });
}

int Main(const std::vector<std::string>& words) {
  std::map<std::string, std::string> flags;
  for (size_t i = 2; i + 1 < words.size(); i += 2) flags[words[i]] = words[i + 1];
  SecurityOptions options;
  options.tls = {flags["--tls-cert"], flags["--tls-key"], flags["--tls-ca"]};
  options.cluster_secret_file = flags["--cluster-secret-file"];
  const auto security = RpcSecurity::Make(options, PeerRoleFromName(flags["--role"]).value_or(PeerRole::kClient));
  if (words.size() < 2 || !security.ok()) {
    std::fprintf(stderr, "hostile_peer: %s\n", security.status().ToString().c_str());
    return 1;
  }
  const auto registry =
      v1::NodeRegistry::NewStub(MakeChannel(words[0], (*security)->ChannelOptions(PeerRole::kCoordinator)));
  const bool is_node = flags["--role"] == "node" && !options.tls.empty();
  if (!is_node) ActAsNode(registry.get());
  ActAsWorker(registry.get());
  AttackNode(MakeChannel(words[1], (*security)->ChannelOptions(PeerRole::kNode)));
  return 0;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(std::vector<std::string>(argv + 1, argv + argc)); }
