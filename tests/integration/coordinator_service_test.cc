// The real coordinator over real gRPC on loopback, with scripted nodes and a scripted worker in this process.
#include "coordinator/edge/coordinator_service.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "base/clock.h"
#include "base/limits.h"
#include "base/version.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/impl/codegen/client_unary_call.h"
#include "gtest/gtest.h"
#include "rpc/grpc_channel.h"
#include "rpc/grpc_status.h"
#include "rpc/rpc_server.h"
#include "tributary/v1/coordinator.grpc.pb.h"
#include "tributary/v1/cpu_attention.grpc.pb.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

// Other threads and sockets are at work: what must come is waited for, not expected at once.
bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

CoordinatorServiceOptions TestOptions() {
  CoordinatorServiceOptions options;
  options.heartbeat_interval_ns = 100 * kNsPerMs;
  options.shard_call_timeout_ns = 2 * kNsPerS;
  CoordinatorConfig& core = options.core;
  core.protocol_version = kProtocolVersion;
  core.admission = {2, 1};
  core.defaults.window_tokens = 64;
  core.defaults.sink_tokens = 16;
  core.defaults.block_tokens = 16;
  core.defaults.kv_dtype = DType::kBf16;
  core.node_timeout_ns = 60 * kNsPerS;  // a loaded machine must not fail the test
  core.step_timeout_ns = 10 * kNsPerS;
  core.stall_timeout_ns = 60 * kNsPerS;
  core.stop_timeout_ns = 10 * kNsPerS;
  core.orphan_grace_ns = 0;
  core.close_retry_ns = 50 * kNsPerMs;
  core.forget_after_ns = 60 * kNsPerS;
  return options;
}

// A CPU attention node that keeps a list of its shards.
class FakeNode final : public v1::CpuAttention::Service {
 public:
  FakeNode(const std::string& coordinator, std::string node_id) : node_id_(std::move(node_id)) {
    auto server = RpcServer::Start("127.0.0.1:0", {this});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    address_ = server_->address();
    registry_ = v1::NodeRegistry::NewStub(MakeChannel(coordinator));
  }
  ~FakeNode() override { server_->Shutdown(0); }

  grpc::Status Register(uint32_t protocol_version = kProtocolVersion) {
    v1::RegisterRequest request;
    v1::NodeInfo& node = *request.mutable_node();
    node.mutable_endpoint()->set_node_id(node_id_);
    node.mutable_endpoint()->set_incarnation(1);
    node.mutable_endpoint()->set_control_address(address_);
    node.set_role(v1::NODE_ROLE_CPU_ATTENTION);
    node.set_protocol_version(protocol_version);
    node.set_kv_capacity_bytes(1 << 20);
    node.set_extent_bytes(4096);
    v1::RegisterResponse response;
    grpc::ClientContext context;
    return registry_->Register(&context, request, &response);
  }

  // Reports one shard; returns the orphans.
  std::vector<uint64_t> Heartbeat(uint64_t shard_id) {
    v1::HeartbeatRequest request;
    request.set_node_id(node_id_);
    request.set_incarnation(1);
    request.add_shards()->set_shard_id(shard_id);
    v1::HeartbeatResponse response;
    grpc::ClientContext context;
    const grpc::Status status = registry_->Heartbeat(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return {response.orphaned_shards().begin(), response.orphaned_shards().end()};
  }

  void FailOpens(grpc::StatusCode code) { open_failure_ = code; }
  size_t num_shards() const {
    std::lock_guard lock(mutex_);
    return shards_.size();
  }
  int num_opened() const { return num_opened_; }

 private:
  grpc::Status OpenShard(grpc::ServerContext* context, const v1::OpenShardRequest* request,
                         v1::OpenShardResponse* response) override {
    if (open_failure_ != grpc::OK) return {open_failure_, "as the test wants it"};
    EXPECT_EQ(request->worker().worker_id(), "gpu-0");
    EXPECT_EQ(request->worker().incarnation(), 1u);
    std::lock_guard lock(mutex_);
    shards_.insert(request->shard().shard_id());
    ++num_opened_;
    return grpc::Status::OK;
  }
  grpc::Status CloseShard(grpc::ServerContext* context, const v1::CloseShardRequest* request,
                          v1::CloseShardResponse* response) override {
    std::lock_guard lock(mutex_);
    shards_.erase(request->shard_id());
    return grpc::Status::OK;
  }

  const std::string node_id_;
  std::string address_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<v1::NodeRegistry::Stub> registry_;
  mutable std::mutex mutex_;
  std::set<uint64_t> shards_;
  std::atomic<int> num_opened_{0};
  std::atomic<grpc::StatusCode> open_failure_{grpc::OK};
};

// A worker that answers every command by the protocol: token i of a sequence is i. With Hold(true) it does not answer
// steps, so that sequences stay where they are.
class FakeWorker {
 public:
  FakeWorker(const std::string& coordinator, const std::string& node_id, uint32_t protocol_version = kProtocolVersion,
             uint32_t head_dim = 16)
      : stub_(v1::NodeRegistry::NewStub(MakeChannel(coordinator))), stream_(stub_->WorkerChannel(&context_)) {
    v1::WorkerEvent hello;
    v1::NodeInfo& node = *hello.mutable_hello();
    node.mutable_endpoint()->set_node_id(node_id);
    node.mutable_endpoint()->set_incarnation(1);
    node.set_role(v1::NODE_ROLE_GPU_WORKER);
    node.set_protocol_version(protocol_version);
    v1::ModelGeometry& geometry = *node.mutable_geometry();
    geometry.set_num_layers(2);
    geometry.set_num_q_heads(4);
    geometry.set_num_kv_heads(2);
    geometry.set_head_dim(head_dim);
    geometry.set_vocab_size(256);
    geometry.set_model_name("tiny");
    stream_->Write(hello);
    reader_ = std::thread([this] { Read(); });
  }
  ~FakeWorker() { Disappear(); }

  void Disappear() {
    context_.TryCancel();
    if (reader_.joinable()) reader_.join();
  }
  // Waits until the coordinator has ended the stream, and returns how.
  grpc::Status WaitForEnd() {
    reader_.join();
    return end_;
  }

  void Hold(bool hold) { hold_ = hold; }
  // Answers what was held back, and holds no more.
  void Release() {
    std::lock_guard lock(mutex_);
    hold_ = false;
    AnswerSteps();
  }
  bool welcome() const { return welcome_; }
  int num_started() const { return num_started_; }
  int num_stopped() const { return num_stopped_; }
  uint32_t max_steps_in_flight() const { return max_steps_in_flight_; }

 private:
  void Read() {
    v1::WorkerCommand command;
    while (stream_->Read(&command)) {
      std::lock_guard lock(mutex_);
      if (command.has_welcome()) welcome_ = true;
      if (command.has_start()) Start(command.start());
      if (command.has_step()) Step(command.step());
      if (command.has_stop()) Stop(command.stop().sequence_id());
    }
    end_ = stream_->Finish();
  }

  void Start(const v1::WorkerCommand::StartSequence& start) {
    left_[start.sequence_id()] = start.turn().max_tokens() - static_cast<uint32_t>(start.answer_tokens_size());
    ++num_started_;
    v1::WorkerEvent progress;
    progress.mutable_prefill()->set_sequence_id(start.sequence_id());
    progress.mutable_prefill()->set_layers_done(1);
    progress.mutable_prefill()->set_num_layers(2);
    stream_->Write(progress);
    v1::WorkerEvent event;
    Fill(start.sequence_id(), event.mutable_tokens());
    stream_->Write(event);
    EndIfDone(start.sequence_id());
  }

  void Step(const v1::WorkerCommand::Step& step) {
    steps_.push_back(step);
    max_steps_in_flight_ = std::max<uint32_t>(max_steps_in_flight_, static_cast<uint32_t>(steps_.size()));
    if (!hold_) AnswerSteps();
  }

  void AnswerSteps() {
    for (const v1::WorkerCommand::Step& due : std::exchange(steps_, {})) {
      v1::WorkerEvent event;
      event.mutable_step_done()->set_step_id(due.step_id());
      for (const uint64_t id : due.sequence_ids()) {
        if (left_.contains(id)) Fill(id, event.mutable_step_done()->add_tokens());
      }
      stream_->Write(event);
      for (const uint64_t id : due.sequence_ids()) EndIfDone(id);
    }
  }

  void Stop(uint64_t id) {
    ++num_stopped_;
    left_.erase(id);
    v1::WorkerEvent event;
    event.mutable_ended()->set_sequence_id(id);
    event.mutable_ended()->set_status_code(grpc::CANCELLED);
    stream_->Write(event);
  }

  void Fill(uint64_t id, v1::WorkerEvent::SequenceTokens* tokens) {
    tokens->set_sequence_id(id);
    tokens->add_tokens(left_[id]);
    tokens->add_logprobs(-0.5f);
    --left_[id];
  }

  void EndIfDone(uint64_t id) {
    const auto it = left_.find(id);
    if (it == left_.end() || it->second != 0) return;
    left_.erase(it);
    v1::WorkerEvent event;
    event.mutable_ended()->set_sequence_id(id);
    event.mutable_ended()->mutable_summary()->set_finish_reason("length");
    stream_->Write(event);
  }

  grpc::ClientContext context_;
  std::unique_ptr<v1::NodeRegistry::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerEvent, v1::WorkerCommand>> stream_;
  std::mutex mutex_;  // of whoever writes to the stream
  std::map<uint64_t, uint32_t> left_;
  std::vector<v1::WorkerCommand::Step> steps_;
  grpc::Status end_;
  std::atomic<bool> hold_{false};
  std::atomic<bool> welcome_{false};
  std::atomic<int> num_started_{0};
  std::atomic<int> num_stopped_{0};
  std::atomic<uint32_t> max_steps_in_flight_{0};
  std::thread reader_;
};

// One Generate call, read by a thread.
class Request {
 public:
  Request(v1::Coordinator::Stub& stub, size_t prompt, uint32_t max_tokens, const std::string& id = "") {
    v1::GenerateRequest request;
    for (size_t i = 0; i < prompt; ++i) request.add_prompt_tokens(1);
    request.set_max_tokens(max_tokens);
    request.set_request_id(id);
    reader_ = stub.Generate(&context_, request);
    thread_ = std::thread([this] { Read(); });
  }
  ~Request() {
    context_.TryCancel();
    if (thread_.joinable()) thread_.join();
  }

  void Cancel() { context_.TryCancel(); }
  grpc::Status Wait() {
    thread_.join();
    return status_;
  }
  bool accepted() const { return accepted_; }
  int num_tokens() const { return num_tokens_; }
  int num_prefill() const { return num_prefill_; }
  // After Wait().
  const v1::GenerateEvent::Summary& summary() const { return summary_; }

 private:
  void Read() {
    v1::GenerateEvent event;
    while (reader_->Read(&event)) {
      if (event.has_accepted()) accepted_ = true;
      if (event.has_prefill()) ++num_prefill_;
      if (event.has_tokens()) num_tokens_ += event.tokens().tokens_size();
      if (event.has_summary()) summary_ = event.summary();
    }
    status_ = reader_->Finish();
  }

  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>> reader_;
  std::thread thread_;
  grpc::Status status_;
  v1::GenerateEvent::Summary summary_;
  std::atomic<bool> accepted_{false};
  std::atomic<int> num_tokens_{0};
  std::atomic<int> num_prefill_{0};
};

class CoordinatorServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    auto service = CoordinatorService::Start(TestOptions(), registry_);
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
    stub_ = v1::Coordinator::NewStub(MakeChannel(service_->address()));
  }

  v1::StatusResponse Status() {
    v1::StatusResponse response;
    grpc::ClientContext context;
    const grpc::Status status = stub_->Status(&context, {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  // grpc.health.v1.Health/Check by hand, since no package has its messages: the status of a service, 1 = SERVING.
  int Health(const std::string& name) {
    std::string request = name.empty() ? "" : fmt::format("\x0a{}{}", static_cast<char>(name.size()), name);
    const grpc::Slice slice(request);
    const grpc::ByteBuffer message(&slice, 1);
    grpc::ByteBuffer answer;
    grpc::ClientContext context;
    auto channel = MakeChannel(service_->address());
    const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Check", grpc::internal::RpcMethod::NORMAL_RPC);
    const grpc::Status status = grpc::internal::BlockingUnaryCall(channel.get(), method, &context, message, &answer);
    if (!status.ok()) return -static_cast<int>(status.error_code());
    std::vector<grpc::Slice> slices;
    EXPECT_TRUE(answer.Dump(&slices).ok());
    std::string bytes;
    for (const grpc::Slice& part : slices) {
      bytes.append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
    return bytes.size() == 2 ? bytes[1] : 0;
  }

  // A worker that the coordinator has taken.
  std::unique_ptr<FakeWorker> Worker() {
    auto worker = std::make_unique<FakeWorker>(service_->address(), "gpu-0");
    EXPECT_TRUE(Eventually([&] { return worker->welcome(); }));
    return worker;
  }

  MetricRegistry registry_;
  std::unique_ptr<CoordinatorService> service_;
  std::unique_ptr<v1::Coordinator::Stub> stub_;
};

TEST_F(CoordinatorServiceTest, GeneratesAndLeavesNothingBehind) {
  FakeNode node0(service_->address(), "cpu-0");
  FakeNode node1(service_->address(), "cpu-1");
  ASSERT_TRUE(node0.Register().ok());
  ASSERT_TRUE(node1.Register().ok());
  auto worker = Worker();
  Request request(*stub_, 600, 20);
  const grpc::Status status = request.Wait();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(request.accepted());
  EXPECT_EQ(request.num_prefill(), 1);
  EXPECT_EQ(request.num_tokens(), 20);
  EXPECT_EQ(request.summary().finish_reason(), "length");
  EXPECT_GT(request.summary().ttft_s(), 0);
  EXPECT_EQ(node0.num_opened() + node1.num_opened(), 2);
  EXPECT_LE(worker->max_steps_in_flight(), 2u);
  EXPECT_TRUE(Eventually([&] { return node0.num_shards() + node1.num_shards() == 0; }));
  const v1::StatusResponse after = Status();
  EXPECT_EQ(after.requests_running(), 0u);
  EXPECT_EQ(after.requests_finished(), 1u);
  EXPECT_EQ(after.nodes_size(), 3);
  EXPECT_EQ(after.geometry().model_name(), "tiny");
}

TEST_F(CoordinatorServiceTest, ManyRequestsAtOnce) {
  FakeNode node(service_->address(), "cpu-0");
  ASSERT_TRUE(node.Register().ok());
  auto worker = Worker();
  for (int round = 0; round < 20; ++round) {
    Request a(*stub_, 200, 5);
    Request b(*stub_, 50, 9);
    EXPECT_TRUE(a.Wait().ok());
    EXPECT_TRUE(b.Wait().ok());
    EXPECT_EQ(a.num_tokens(), 5);
    EXPECT_EQ(b.num_tokens(), 9);
  }
  EXPECT_TRUE(Eventually([&] { return node.num_shards() == 0; }));
}

TEST_F(CoordinatorServiceTest, CancelEndsTheRequestAndFreesItsShards) {
  FakeNode node(service_->address(), "cpu-0");
  ASSERT_TRUE(node.Register().ok());
  auto worker = Worker();
  worker->Hold(true);
  Request request(*stub_, 600, 20, "mine");
  ASSERT_TRUE(Eventually([&] { return request.num_tokens() == 1; }));
  v1::CancelRequest cancel;
  cancel.set_request_id("mine");
  v1::CancelResponse response;
  grpc::ClientContext context;
  EXPECT_TRUE(stub_->Cancel(&context, cancel, &response).ok());
  EXPECT_EQ(request.Wait().error_code(), grpc::CANCELLED);
  EXPECT_TRUE(Eventually([&] { return node.num_shards() == 0 && worker->num_stopped() == 1; }));

  grpc::ClientContext again;
  EXPECT_EQ(stub_->Cancel(&again, cancel, &response).error_code(), grpc::NOT_FOUND);
}

TEST_F(CoordinatorServiceTest, AClientThatIsGoneFreesItsShards) {
  FakeNode node(service_->address(), "cpu-0");
  ASSERT_TRUE(node.Register().ok());
  auto worker = Worker();
  worker->Hold(true);
  Request request(*stub_, 600, 20);
  ASSERT_TRUE(Eventually([&] { return request.num_tokens() == 1; }));
  EXPECT_EQ(node.num_shards(), 1u);
  request.Cancel();
  EXPECT_TRUE(Eventually([&] { return node.num_shards() == 0 && worker->num_stopped() == 1; }));
  EXPECT_TRUE(Eventually([&] { return Status().requests_running() == 0; }));
}

TEST_F(CoordinatorServiceTest, RequestsOfALostWorkerGoOnOnTheNextOne) {
  FakeNode node(service_->address(), "cpu-0");
  ASSERT_TRUE(node.Register().ok());
  auto worker = Worker();
  worker->Hold(true);
  Request request(*stub_, 600, 20);
  ASSERT_TRUE(Eventually([&] { return request.num_tokens() == 1; }));
  worker->Disappear();
  EXPECT_TRUE(Eventually([&] { return node.num_shards() == 0; }));
  auto back = Worker();
  EXPECT_TRUE(request.Wait().ok());
  EXPECT_EQ(request.num_tokens(), 20);
  EXPECT_TRUE(Eventually([&] { return node.num_shards() == 0; }));
}

TEST_F(CoordinatorServiceTest, ANodeWithoutRoomEndsTheRequestWithADelay) {
  FakeNode node(service_->address(), "cpu-0");
  ASSERT_TRUE(node.Register().ok());
  auto worker = Worker();
  node.FailOpens(grpc::RESOURCE_EXHAUSTED);
  Request request(*stub_, 600, 20);
  const grpc::Status status = request.Wait();
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("'cpu-0'"));
  EXPECT_GT(RetryDelayNs(status).value_or(0), 0);
  EXPECT_EQ(worker->num_started(), 0);
}

TEST_F(CoordinatorServiceTest, AFullQueueAnswersWithADelay) {
  auto worker = Worker();
  worker->Hold(true);
  Request a(*stub_, 10, 5), b(*stub_, 10, 5);
  ASSERT_TRUE(Eventually([&] { return a.num_tokens() == 1 && b.num_tokens() == 1; }));
  Request waits(*stub_, 10, 5);
  ASSERT_TRUE(Eventually([&] { return Status().requests_waiting() == 1; }));
  Request refused(*stub_, 10, 5);
  const grpc::Status status = refused.Wait();
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_GT(RetryDelayNs(status).value_or(0), 0);
}

TEST_F(CoordinatorServiceTest, BadRequestsAreRefusedAndHarmNobody) {
  auto worker = Worker();
  Request empty(*stub_, 0, 5);
  EXPECT_EQ(empty.Wait().error_code(), grpc::INVALID_ARGUMENT);
  v1::GenerateRequest odd;
  odd.add_prompt_tokens(1);
  odd.set_max_tokens(1);
  odd.mutable_placement()->set_kv_dtype(static_cast<v1::DType>(99));
  grpc::ClientContext context;
  v1::GenerateEvent event;
  auto reader = stub_->Generate(&context, odd);
  EXPECT_FALSE(reader->Read(&event));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("99"));
  Request good(*stub_, 10, 5);
  EXPECT_TRUE(good.Wait().ok());
}

TEST_F(CoordinatorServiceTest, TextFromOutsideIsBoundedAndPrintable) {
  const auto cancel = [&](const std::string& request_id) {
    grpc::ClientContext context;
    v1::CancelRequest request;
    request.set_request_id(request_id);
    v1::CancelResponse response;
    return stub_->Cancel(&context, request, &response);
  };
  grpc::Status status = cancel(std::string(limits::kMaxRequestIdBytes, 'x'));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  status = cancel(std::string(5000, 'x'));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("request_id has 5000 bytes; at most 128"));
  status = cancel("a\x1b[2J");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("'a\\x1b[2J' has a control character at byte 1"));

  FakeNode node(service_->address(), std::string(200, 'n'));
  EXPECT_EQ(node.Register().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  FakeWorker worker(service_->address(), "gpu\n2026-11-30 E forged");
  EXPECT_EQ(worker.WaitForEnd().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Status().nodes_size(), 0);
}

TEST_F(CoordinatorServiceTest, OtherVersionsAndGeometriesAreRefused) {
  FakeNode node(service_->address(), "cpu-0");
  EXPECT_EQ(node.Register(77).error_code(), grpc::FAILED_PRECONDITION);
  FakeWorker old_worker(service_->address(), "gpu-7", 77);
  EXPECT_EQ(old_worker.WaitForEnd().error_code(), grpc::FAILED_PRECONDITION);
  auto worker = Worker();
  FakeWorker other_model(service_->address(), "gpu-1", kProtocolVersion, 32);
  const grpc::Status status = other_model.WaitForEnd();
  EXPECT_EQ(status.error_code(), grpc::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("head_dim 32"));
}

TEST_F(CoordinatorServiceTest, OrphansAreHandedBack) {
  FakeNode node(service_->address(), "cpu-0");
  ASSERT_TRUE(node.Register().ok());
  EXPECT_EQ(node.Heartbeat(4711), std::vector<uint64_t>{4711});
}

TEST_F(CoordinatorServiceTest, DrainLetsRunningRequestsEnd) {
  auto worker = Worker();
  EXPECT_EQ(Health("tributary.v1.Coordinator"), 1);
  worker->Hold(true);
  Request running(*stub_, 10, 3);
  ASSERT_TRUE(Eventually([&] { return running.num_tokens() == 1; }));
  std::atomic<bool> drained{false};
  std::thread drain([&] { drained = service_->Drain(30 * kNsPerS); });
  // Until the drain has begun, a request would run; then it is refused.
  EXPECT_TRUE(Eventually([&] {
    Request late(*stub_, 10, 1);
    const grpc::Status status = late.Wait();
    return status.error_code() == grpc::UNAVAILABLE;
  }));
  EXPECT_FALSE(drained);
  EXPECT_EQ(Health(""), 2);
  EXPECT_EQ(Health("tributary.v1.Coordinator"), 2);
  worker->Release();
  EXPECT_TRUE(running.Wait().ok());
  EXPECT_EQ(running.num_tokens(), 3);
  drain.join();
  EXPECT_TRUE(drained);
}

TEST_F(CoordinatorServiceTest, ABusyPortIsAnError) {
  CoordinatorServiceOptions options = TestOptions();
  options.listen = service_->address();
  MetricRegistry registry;
  const absl::Status status = CoordinatorService::Start(options, registry).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.ToString(), HasSubstr(service_->address()));
}

TEST_F(CoordinatorServiceTest, EndsCleanlyWithRequestsUnderWay) {
  FakeNode node(service_->address(), "cpu-0");
  ASSERT_TRUE(node.Register().ok());
  auto worker = Worker();
  worker->Hold(true);
  Request request(*stub_, 600, 20);
  ASSERT_TRUE(Eventually([&] { return request.num_tokens() == 1; }));
  service_.reset();
  EXPECT_EQ(request.Wait().error_code(), grpc::UNAVAILABLE);
  EXPECT_TRUE(Eventually([&] { return node.num_shards() == 0; }));
}

}  // namespace
}  // namespace tributary
