#include "cpu_attention_service/edge/node_registration.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "fmt/format.h"
#include "rpc/grpc_channel.h"
#include "rpc/grpc_status.h"
#include "rpc/security/connection_probe.h"

namespace tributary {
namespace {

constexpr int64_t kRegisterTimeoutNs = 3 * kNsPerS;
constexpr int64_t kHeartbeatTimeoutNs = 2 * kNsPerS;
constexpr int64_t kLeaveTimeoutNs = 500 * kNsPerMs;
constexpr int64_t kLoopTimeoutNs = 2 * kNsPerS;
constexpr int64_t kMinBackoffNs = 100 * kNsPerMs;
constexpr int64_t kMaxBackoffNs = 2 * kNsPerS;
constexpr int64_t kMinHeartbeatIntervalNs = 10 * kNsPerMs;
constexpr int64_t kDefaultHeartbeatIntervalNs = 1 * kNsPerS;
constexpr uint64_t kFailuresPerWarning = 10;

std::chrono::system_clock::time_point DeadlineIn(int64_t timeout_ns) {
  return std::chrono::system_clock::now() + std::chrono::nanoseconds(timeout_ns);
}

// Answers that will not change until somebody changes a configuration.
bool IsRefusal(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status) || absl::IsPermissionDenied(status) ||
         absl::IsUnauthenticated(status) || absl::IsUnimplemented(status);
}

}  // namespace

NodeRegistration::NodeRegistration(std::string coordinator, v1::NodeInfo node, IoLoop* loop,
                                   std::function<void(const absl::Status&)> on_refused, RpcOptions rpc,
                                   int64_t id_patience_ns)
    : coordinator_(std::move(coordinator)),
      node_(std::move(node)),
      loop_(loop),
      on_refused_(std::move(on_refused)),
      rpc_(std::move(rpc)),
      id_patience_ns_(id_patience_ns),
      stub_(v1::NodeRegistry::NewStub(MakeChannel(coordinator_, rpc_))),
      backoff_ns_(kMinBackoffNs) {}

NodeRegistration::~NodeRegistration() { Stop(); }

void NodeRegistration::Start() {
  thread_ = std::thread([this] { ThreadMain(); });
}

void NodeRegistration::SetDraining() {
  MutexLock lock(&mutex_);
  draining_ = true;
  drain_due_ = true;
  changed_.NotifyAll();
}

void NodeRegistration::Stop() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (!thread_.joinable()) return;
  thread_.join();
  if (!registered_) return;
  const absl::Status status = Heartbeat({.draining = true, .leaving = true}, kLeaveTimeoutNs);
  if (!status.ok()) LOG_INFO("the coordinator was not told that this node leaves: {}", status.ToString());
}

bool NodeRegistration::Pause(int64_t pause_ns) {
  const auto end = WaitEnd(pause_ns);
  MutexLock lock(&mutex_);
  while (!stopping_ && !drain_due_ && changed_.WaitUntil(&mutex_, end)) {
  }
  drain_due_ = false;
  return !stopping_;
}

void NodeRegistration::ThreadMain() {
  int64_t pause_ns = 0;
  while (!refused_ && Pause(pause_ns)) {
    pause_ns = registered_ ? SendHeartbeat() : Register();
  }
}

int64_t NodeRegistration::Register() {
  grpc::ClientContext context;
  context.set_deadline(DeadlineIn(kRegisterTimeoutNs));
  v1::RegisterRequest request;
  *request.mutable_node() = node_;
  v1::RegisterResponse response;
  const absl::Status status = FromGrpcStatus(stub_->Register(&context, request, &response));
  if (status.ok()) {
    registered_ = true;
    id_wait_end_ns_.reset();
    num_failures_ = 0;
    backoff_ns_ = kMinBackoffNs;
    heartbeat_interval_ns_ = response.heartbeat_interval_ns() > 0
                                 ? std::max(response.heartbeat_interval_ns(), kMinHeartbeatIntervalNs)
                                 : kDefaultHeartbeatIntervalNs;
    LOG_INFO("registered with the coordinator at {}, a heartbeat every {:.3f} s", coordinator_,
             SecondsFromNs(heartbeat_interval_ns_));
    return 0;
  }
  if (IsRefusal(status) || (absl::IsAlreadyExists(status) && !MayWaitForId(status))) {
    refused_ = true;
    on_refused_(absl::Status(status.code(), fmt::format("the coordinator at {} refuses this node: {}", coordinator_,
                                                        std::string(status.message()))));
    return 0;
  }
  if (!absl::IsAlreadyExists(status) && num_failures_++ % kFailuresPerWarning == 0) {
    const std::string why = WhyNoTlsConnection(coordinator_, rpc_.credentials);
    LOG_WARN("cannot register with the coordinator at {} ({}); trying again. {}", coordinator_, status.ToString(),
             why.empty() ? "Does it run, and is --coordinator right?" : why);
  }
  const int64_t pause_ns = backoff_ns_;
  backoff_ns_ = std::min(backoff_ns_ * 2, kMaxBackoffNs);
  return pause_ns;
}

bool NodeRegistration::MayWaitForId(const absl::Status& status) {
  const int64_t now_ns = RealClock().NowNs();
  if (!id_wait_end_ns_) {
    id_wait_end_ns_ = now_ns + id_patience_ns_;
    LOG_WARN("{}. Trying for {:.0f} s, in case that process has ended", std::string(status.message()),
             SecondsFromNs(id_patience_ns_));
  }
  return now_ns < *id_wait_end_ns_;
}

int64_t NodeRegistration::SendHeartbeat() {
  bool draining = false;
  {
    MutexLock lock(&mutex_);
    draining = draining_;
  }
  const absl::Status status = Heartbeat({.draining = draining}, kHeartbeatTimeoutNs);
  if (status.ok()) {
    num_failures_ = 0;
  } else if (absl::IsNotFound(status)) {
    LOG_WARN("the coordinator at {} has forgotten this node; registering again", coordinator_);
    registered_ = false;
    return 0;
  } else if (num_failures_++ % kFailuresPerWarning == 0) {
    LOG_WARN("heartbeat to the coordinator at {} failed: {}", coordinator_, status.ToString());
  }
  return heartbeat_interval_ns_;
}

absl::Status NodeRegistration::Heartbeat(Intent intent, int64_t timeout_ns) {
  v1::HeartbeatRequest request;
  request.set_node_id(node_.endpoint().node_id());
  request.set_incarnation(node_.endpoint().incarnation());
  request.set_draining(intent.draining);
  request.set_leaving(intent.leaving);
  const absl::Status asked = loop_->Run(
      [&](AttentionServer& server) {
        request.set_kv_free_bytes(server.free_bytes());
        for (const ShardUsageInfo& shard : server.shards()) {
          v1::ShardUsage* usage = request.add_shards();
          usage->set_shard_id(shard.shard_id.value);
          usage->set_sequence_id(shard.sequence_id.value);
          usage->set_stored_tokens(shard.stored_tokens);
          usage->set_reserved_bytes(shard.reserved_bytes);
        }
      },
      kLoopTimeoutNs);
  if (!asked.ok()) return asked;  // a node whose I/O thread hangs must not look alive

  grpc::ClientContext context;
  context.set_deadline(DeadlineIn(timeout_ns));
  v1::HeartbeatResponse response;
  const absl::Status status = FromGrpcStatus(stub_->Heartbeat(&context, request, &response));
  if (!status.ok() || response.orphaned_shards().empty()) return status;
  LOG_INFO("freeing {} shards that no live sequence refers to", response.orphaned_shards_size());
  loop_->Post([orphans = std::vector<uint64_t>(response.orphaned_shards().begin(), response.orphaned_shards().end())](
                  AttentionServer& server) {
    for (uint64_t shard : orphans) server.DropOrphan(ShardId(shard));
  });
  return status;
}

}  // namespace tributary
