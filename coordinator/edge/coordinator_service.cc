#include "coordinator/edge/coordinator_service.h"

#include <atomic>
#include <chrono>
#include <future>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status.h"
#include "coordinator/core/coordinator_metrics.h"
#include "coordinator/core/core_loop.h"
#include "coordinator/edge/open_calls.h"
#include "coordinator/edge/shard_client.h"
#include "coordinator/edge/streams.h"
#include "proto/convert_node.h"
#include "proto/convert_request.h"
#include "proto/convert_summary.h"
#include "proto/convert_worker.h"
#include "proto/outside_strings.h"
#include "rpc/grpc_status.h"
#include "tributary/v1/coordinator.grpc.pb.h"

namespace tributary {
namespace {

constexpr char kServiceName[] = "tributary.v1.Coordinator";

}  // namespace

struct CoordinatorService::Impl final : public v1::Coordinator::CallbackService,
                                        public v1::NodeRegistry::CallbackService {
  Impl(const CoordinatorServiceOptions& options, MetricRegistry& registry)
      : options(options),
        metrics(registry),
        shard_client(
            options.shard_call_timeout_ns, [this](Event e) { loop->Post(std::move(e)); },
            options.security->ChannelOptions(PeerRole::kNode)),
        loop(std::make_unique<CoreLoop>(
            options.core, &clock, [this](Action&& action) { std::visit([this](auto& a) { Execute(a); }, action); },
            [this](const CoordinatorCore& core) { OnTick(core); })) {}

  CallId NextCall() { return CallId(++last_id); }

  // What is asked before a call's content is looked at: who makes it, then CheckEntry().
  absl::Status Admit(const grpc::CallbackServerContext& context, RpcMethod method) {
    return options.security->access().Check(context, method);
  }
  absl::Status Admit(const grpc::CallbackServerContext& context, RpcMethod method,
                     const google::protobuf::Message& request, size_t num_calls = 0, size_t max_calls = 1) {
    TRIBUTARY_RETURN_IF_ERROR(Admit(context, method));
    return CheckEntry(request, num_calls, max_calls);
  }

  // ---- clients ----
  grpc::ServerWriteReactor<v1::GenerateEvent>* Generate(grpc::CallbackServerContext* context,
                                                        const v1::GenerateRequest* request) override {
    const CallId call = NextCall();
    auto* stream = new GenerateStream(call, &generate_streams, loop.get());
    if (absl::Status status =
            Admit(*context, RpcMethod::kGenerate, *request, generate_streams.size(), limits::kMaxGenerateCalls);
        !status.ok()) {
      stream->End(ToGrpcStatus(status));
      return stream;
    }
    absl::StatusOr<GenerateSpec> spec = GenerateSpecFromProto(*request);
    if (!spec.ok()) {
      stream->End(ToGrpcStatus(spec.status()));
    } else {
      loop->Post(event::Generate{call, *std::move(spec)});
    }
    return stream;
  }

  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context, const v1::CancelRequest* request,
                                   v1::CancelResponse* response) override {
    const CallId call = NextCall();
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (absl::Status status = Admit(*context, RpcMethod::kCancel, *request); !status.ok()) {
      reactor->Finish(ToGrpcStatus(status));
      return reactor;
    }
    cancels.Add(call, {reactor, response});
    loop->Post(event::Cancel{call, request->request_id()});
    return reactor;
  }

  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest* request,
                                   v1::StatusResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (absl::Status status = Admit(*context, RpcMethod::kStatus); !status.ok()) {
      reactor->Finish(ToGrpcStatus(status));
      return reactor;
    }
    loop->PostInspect([this, reactor, response](const CoordinatorCore& core) {
      *response = StatusToProto(core.status(), clock.NowNs());
      reactor->Finish(grpc::Status::OK);
    });
    return reactor;
  }

  // ---- nodes ----
  grpc::ServerUnaryReactor* Register(grpc::CallbackServerContext* context, const v1::RegisterRequest* request,
                                     v1::RegisterResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    absl::Status entry = Admit(*context, RpcMethod::kRegister, *request);
    absl::StatusOr<NodeDescription> node = entry.ok() ? NodeFromProto(request->node()) : entry;
    if (node.ok() && node->role != NodeRole::kCpuAttention) {
      node = absl::InvalidArgumentError("GPU workers register over WorkerChannel, not Register");
    }
    if (!node.ok()) {
      reactor->Finish(ToGrpcStatus(node.status()));
      return reactor;
    }
    shard_client.Forget(node->control_address);
    const CallId call = NextCall();
    registers.Add(call, {reactor, response});
    loop->Post(event::Register{call, *std::move(node)});
    return reactor;
  }

  grpc::ServerUnaryReactor* Heartbeat(grpc::CallbackServerContext* context, const v1::HeartbeatRequest* request,
                                      v1::HeartbeatResponse* response) override {
    const CallId call = NextCall();
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (absl::Status status = Admit(*context, RpcMethod::kHeartbeat, *request); !status.ok()) {
      reactor->Finish(ToGrpcStatus(status));
      return reactor;
    }
    heartbeats.Add(call, {reactor, response});
    loop->Post(event::Heartbeat{call, HeartbeatFromProto(*request)});
    return reactor;
  }

  grpc::ServerBidiReactor<v1::WorkerEvent, v1::WorkerCommand>* WorkerChannel(
      grpc::CallbackServerContext* context) override {
    if (absl::Status status = Admit(*context, RpcMethod::kWorkerChannel); !status.ok()) {
      return new RefusedWorkerStream(ToGrpcStatus(status));
    }
    auto* stream = new WorkerStream(StreamId(++last_id), context, &worker_streams, loop.get());
    if (worker_streams.size() > limits::kMaxMembers) {
      stream->Refuse(absl::ResourceExhaustedError(
          fmt::format("{} workers are connected; at most {} may be", worker_streams.size() - 1, limits::kMaxMembers)));
    }
    return stream;
  }

  // ---- actions, on the loop's thread ----
  void Execute(action::ReplyRegister& a) {
    auto [reactor, response] = registers.Take(a.call);
    response->set_membership_epoch(a.membership_epoch);
    response->set_heartbeat_interval_ns(options.heartbeat_interval_ns);
    reactor->Finish(ToGrpcStatus(a.status));
  }
  void Execute(action::ReplyHeartbeat& a) {
    auto [reactor, response] = heartbeats.Take(a.call);
    response->set_membership_epoch(a.membership_epoch);
    for (const ShardId shard : a.orphans) response->add_orphaned_shards(shard.value);
    reactor->Finish(ToGrpcStatus(a.status));
  }
  void Execute(action::ReplyCancel& a) { cancels.Take(a.call).reactor->Finish(ToGrpcStatus(a.status)); }
  void Execute(action::OpenShard& a) { shard_client.Open(a); }
  void Execute(action::CloseShard& a) { shard_client.Close(a); }
  void Execute(action::Welcome& a) {
    v1::WorkerCommand message;
    message.mutable_welcome()->set_membership_epoch(a.membership_epoch);
    message.mutable_welcome()->set_heartbeat_interval_ns(options.heartbeat_interval_ns);
    ToWorker(a.stream, std::move(message));
  }
  void Execute(action::StartSequence& a) { ToWorker(a.stream, WorkerCommandToProto(a.plan)); }
  void Execute(action::ContinueSequence& a) { ToWorker(a.stream, WorkerCommandToProto(a.plan)); }
  void Execute(action::TakeStep& a) { ToWorker(a.stream, WorkerCommandToProto(a.step)); }
  void Execute(action::StopSequence& a) { ToWorker(a.stream, WorkerCommandToProto(a.stop)); }
  void Execute(action::CloseStream& a) {
    // A refused worker must read the reason; one that was given up may not read at all.
    const bool refused =
        absl::IsFailedPrecondition(a.status) || absl::IsInvalidArgument(a.status) || absl::IsAlreadyExists(a.status);
    worker_streams.With(a.stream,
                        [&](WorkerStream& stream) { refused ? stream.Refuse(a.status) : stream.Close(a.status); });
  }
  void Execute(action::Accepted& a) {
    LOG_INFO("request '{}' is sequence {} on worker '{}'", a.accepted.request_id, a.accepted.sequence_id.value,
             a.accepted.worker_id);
    ToClient(a.call, GenerateEventToProto(a.accepted));
  }
  void Execute(action::Prefill& a) { ToClient(a.call, GenerateEventToProto(a.progress)); }
  void Execute(action::Stalled& a) {
    const bool is_silent = a.stalled.reason == RequestStalled::Reason::kSilent;
    LOG_INFO("a request waits {} '{}', which is {}", is_silent ? "for" : "because of", a.stalled.node_id,
             is_silent ? "silent" : "gone");
    ToClient(a.call, GenerateEventToProto(a.stalled));
  }
  void Execute(action::Resumed& a) {
    v1::GenerateEvent message;
    message.mutable_resumed();
    ToClient(a.call, std::move(message));
  }
  void Execute(action::Tokens& a) {
    metrics.Observe(a);
    for (v1::GenerateEvent& event : TokenEventsToProto(a.tokens, kMaxClientMessageBytes)) {
      ToClient(a.call, std::move(event));
    }
  }
  void Execute(action::Finish& a) {
    metrics.Observe(a);
    if (a.status.ok()) ToClient(a.call, GenerateEventToProto(a.summary));
    const grpc::Status status =
        a.retry_delay_ns > 0 ? ToGrpcStatus(a.status, a.retry_delay_ns) : ToGrpcStatus(a.status);
    generate_streams.With(a.call, [&](GenerateStream& stream) { stream.End(status); });
  }
  void Execute(action::EndLease& a) { metrics.Observe(a); }
  void Execute(action::EndRebuild& a) { metrics.Observe(a); }
  void Execute(action::Log& a) {
    if (a.level == action::Log::Level::kWarn) {
      LOG_WARN("{}", a.text);
    } else {
      LOG_INFO("{}", a.text);
    }
  }

  void ToWorker(StreamId id, v1::WorkerCommand message) {
    worker_streams.With(id, [&](WorkerStream& stream) { stream.Push(std::move(message)); });
  }
  void ToClient(CallId call, v1::GenerateEvent message) {
    generate_streams.With(call, [&](GenerateStream& stream) { stream.Push(std::move(message)); });
  }

  void OnTick(const CoordinatorCore& core) {
    metrics.Observe(core.status());
    MutexLock lock(&idle_mutex);
    idle = core.idle();
    if (idle) idle_changed.NotifyAll();
  }

  const CoordinatorServiceOptions options;
  RealClock clock;
  CoordinatorMetrics metrics;
  std::atomic<uint64_t> last_id{0};
  GenerateStreams generate_streams;
  WorkerStreams worker_streams;
  UnaryCalls<v1::RegisterResponse> registers;
  UnaryCalls<v1::HeartbeatResponse> heartbeats;
  UnaryCalls<v1::CancelResponse> cancels;
  ShardClient shard_client;
  Mutex idle_mutex;
  CondVar idle_changed;
  bool idle ABSL_GUARDED_BY(idle_mutex) = true;  // at the last tick
  std::unique_ptr<CoreLoop> loop;
  std::unique_ptr<RpcServer> server;
};

absl::StatusOr<std::unique_ptr<CoordinatorService>> CoordinatorService::Start(const CoordinatorServiceOptions& options,
                                                                              MetricRegistry& registry) {
  auto impl = std::make_unique<Impl>(options, registry);
  TRIBUTARY_ASSIGN_OR_RETURN(impl->server,
                             RpcServer::Start(options.listen,
                                              {static_cast<v1::Coordinator::CallbackService*>(impl.get()),
                                               static_cast<v1::NodeRegistry::CallbackService*>(impl.get())},
                                              options.security->ServerOptions()));
  impl->server->SetServing(true, kServiceName);
  return std::unique_ptr<CoordinatorService>(new CoordinatorService(std::move(impl)));
}

CoordinatorService::CoordinatorService(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

CoordinatorService::~CoordinatorService() {
  // The core answers every open call before the server waits for them.
  impl_->loop->Post(event::Abort{});
  impl_->server->Shutdown(200 * kNsPerMs);
  // What the end of the streams asked for (closing shards) has been sent once the loop comes to this.
  std::promise<void> flushed;
  impl_->loop->PostInspect([&](const CoordinatorCore&) { flushed.set_value(); });
  flushed.get_future().wait();
  impl_->shard_client.Shutdown();
  impl_->loop.reset();
}

RpcServer& CoordinatorService::server() { return *impl_->server; }

const std::string& CoordinatorService::address() const { return impl_->server->address(); }

bool CoordinatorService::Drain(int64_t timeout_ns) {
  const auto end = WaitEnd(timeout_ns);
  impl_->server->SetServing(false, kServiceName);
  {
    MutexLock lock(&impl_->idle_mutex);
    impl_->idle = false;  // of a tick before the drain
  }
  impl_->loop->Post(event::Drain{});
  MutexLock lock(&impl_->idle_mutex);
  while (!impl_->idle && impl_->idle_changed.WaitUntil(&impl_->idle_mutex, end)) {
  }
  return impl_->idle;
}

}  // namespace tributary
