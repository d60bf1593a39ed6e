#include "coordinator/edge/shard_client.h"

#include <chrono>
#include <utility>

#include "proto/convert.h"
#include "rpc/grpc_channel.h"
#include "rpc/grpc_status.h"

namespace tributary {
namespace {

// Everything that a call's callback needs to outlive the call.
template <typename Request, typename Response>
struct Call {
  std::shared_ptr<v1::CpuAttention::Stub> stub;
  grpc::ClientContext context;
  Request request;
  Response response;
};

}  // namespace

ShardClient::ShardClient(int64_t timeout_ns, Report report, RpcOptions rpc)
    : timeout_ns_(timeout_ns), report_(std::move(report)), rpc_(std::move(rpc)) {}

ShardClient::~ShardClient() { Shutdown(); }

void ShardClient::Open(const action::OpenShard& open) {
  const ShardId shard_id = open.spec.shard_id;
  const std::string& node_id = open.holder.node_id;
  if (!Begin()) return;
  auto call = std::make_shared<Call<v1::OpenShardRequest, v1::OpenShardResponse>>();
  call->stub = StubFor(open.holder.control_address);
  call->context.set_deadline(std::chrono::system_clock::now() + std::chrono::nanoseconds(timeout_ns_));
  *call->request.mutable_shard() = ShardSpecToProto(open.spec);
  *call->request.mutable_worker() = WorkerIdentityToProto(open.worker);
  call->stub->async()->OpenShard(&call->context, &call->request, &call->response,
                                 [this, call, shard_id, node_id](const grpc::Status& status) {
                                   report_(event::ShardOpened{shard_id, node_id, FromGrpcStatus(status)});
                                   Finish();
                                 });
}

void ShardClient::Close(const action::CloseShard& close) {
  const ShardId shard_id = close.shard_id;
  const std::string& node_id = close.holder.node_id;
  if (!Begin()) return;
  auto call = std::make_shared<Call<v1::CloseShardRequest, v1::CloseShardResponse>>();
  call->stub = StubFor(close.holder.control_address);
  call->context.set_deadline(std::chrono::system_clock::now() + std::chrono::nanoseconds(timeout_ns_));
  call->request.set_shard_id(shard_id.value);
  call->request.set_epoch(close.epoch.value);
  call->stub->async()->CloseShard(&call->context, &call->request, &call->response,
                                  [this, call, shard_id, node_id](const grpc::Status& status) {
                                    report_(event::ShardClosed{shard_id, node_id, FromGrpcStatus(status)});
                                    Finish();
                                  });
}

void ShardClient::Forget(const std::string& address) {
  MutexLock lock(&mutex_);
  stubs_.erase(address);
}

void ShardClient::Shutdown() {
  MutexLock lock(&mutex_);
  stopped_ = true;
  while (num_pending_ > 0) idle_.Wait(&mutex_);
}

std::shared_ptr<v1::CpuAttention::Stub> ShardClient::StubFor(const std::string& address) {
  MutexLock lock(&mutex_);
  std::shared_ptr<v1::CpuAttention::Stub>& stub = stubs_[address];
  if (stub == nullptr) stub = v1::CpuAttention::NewStub(MakeChannel(address, rpc_));
  return stub;
}

bool ShardClient::Begin() {
  MutexLock lock(&mutex_);
  if (stopped_) return false;
  ++num_pending_;
  return true;
}

void ShardClient::Finish() {
  MutexLock lock(&mutex_);
  if (--num_pending_ == 0) idle_.NotifyAll();
}

}  // namespace tributary
