// A client that does not read its answer: what waits for it is bounded, and its request alone ends.
#include <atomic>
#include <memory>
#include <thread>

#include "base/version.h"
#include "coordinator/edge/coordinator_service.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "proto/convert_node.h"
#include "rpc/grpc_channel.h"
#include "tributary/v1/coordinator.grpc.pb.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

CoordinatorServiceOptions Options() {
  CoordinatorServiceOptions options;
  options.heartbeat_interval_ns = 100 * kNsPerMs;
  options.shard_call_timeout_ns = 2 * kNsPerS;
  CoordinatorConfig& core = options.core;
  core.protocol_version = kProtocolVersion;
  core.admission = {2, 1};
  core.defaults.window_tokens = 1 << 15;  // everything stays on the worker
  core.defaults.sink_tokens = 16;
  core.defaults.block_tokens = 16;
  core.defaults.kv_dtype = DType::kBf16;
  core.node_timeout_ns = 600 * kNsPerS;  // a loaded machine must not fail the test
  core.step_timeout_ns = 600 * kNsPerS;
  core.stall_timeout_ns = 600 * kNsPerS;
  core.stop_timeout_ns = 600 * kNsPerS;
  core.forget_after_ns = 600 * kNsPerS;
  return options;
}

// A worker that has its answers ready: of max_tokens tokens, which count down, in one go. Steps do not interest it.
class ReadyWorker {
 public:
  ReadyWorker(const std::string& coordinator, uint32_t num_alternatives)
      : num_alternatives_(num_alternatives),
        stub_(v1::NodeRegistry::NewStub(MakeChannel(coordinator))),
        stream_(stub_->WorkerChannel(&context_)) {
    v1::WorkerEvent hello;
    v1::NodeInfo& node = *hello.mutable_hello();
    node.mutable_endpoint()->set_node_id("gpu-0");
    node.mutable_endpoint()->set_incarnation(1);
    node.set_role(v1::NODE_ROLE_GPU_WORKER);
    node.set_protocol_version(kProtocolVersion);
    node.set_kv_capacity_bytes(uint64_t{1} << 40);
    v1::ModelGeometry& geometry = *node.mutable_geometry();
    geometry.set_num_layers(2);
    geometry.set_num_q_heads(4);
    geometry.set_num_kv_heads(2);
    geometry.set_head_dim(16);
    geometry.set_vocab_size(256);
    stream_->Write(hello);
    reader_ = std::thread([this] { Read(); });
  }
  ~ReadyWorker() {
    context_.TryCancel();
    reader_.join();
    stream_->Finish();
  }

  bool welcome() const { return welcome_; }
  int num_stopped() const { return num_stopped_; }

 private:
  void Read() {
    v1::WorkerCommand command;
    while (stream_->Read(&command)) {
      if (command.has_welcome()) welcome_ = true;
      if (command.has_start()) Answer(command.start());
      if (command.has_stop()) Stop(command.stop().sequence_id());
    }
  }

  void Answer(const v1::WorkerCommand::StartSequence& start) {
    for (uint32_t left = start.turn().max_tokens(); left > 0; --left) {
      v1::WorkerEvent event;
      v1::WorkerEvent::SequenceTokens& tokens = *event.mutable_tokens();
      tokens.set_sequence_id(start.sequence_id());
      tokens.add_tokens(left);
      tokens.add_logprobs(-0.5f);
      if (start.turn().top_logprobs() > 0) {
        v1::TopLogprobs& top = *tokens.add_top_logprobs();
        for (uint32_t i = 0; i < num_alternatives_; ++i) {
          top.add_tokens(200);
          top.add_logprobs(-0.5f);
        }
      }
      stream_->Write(event);
    }
    v1::WorkerEvent end;
    end.mutable_ended()->set_sequence_id(start.sequence_id());
    end.mutable_ended()->mutable_summary()->set_finish_reason("length");
    // One that is asked for alternatives stays, so that the coordinator has to stop it.
    if (start.turn().top_logprobs() == 0) stream_->Write(end);
  }

  void Stop(uint64_t id) {
    v1::WorkerEvent event;
    event.mutable_ended()->set_sequence_id(id);
    event.mutable_ended()->set_status_code(grpc::CANCELLED);
    stream_->Write(event);
    ++num_stopped_;
  }

  const uint32_t num_alternatives_;
  grpc::ClientContext context_;
  std::unique_ptr<v1::NodeRegistry::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerEvent, v1::WorkerCommand>> stream_;
  std::atomic<bool> welcome_{false};
  std::atomic<int> num_stopped_{0};
  std::thread reader_;
};

class SlowClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto service = CoordinatorService::Start(Options(), registry_);
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
    stub_ = v1::Coordinator::NewStub(MakeChannel(service_->address()));
    worker_ = std::make_unique<ReadyWorker>(service_->address(), /*num_alternatives=*/1024);
    while (!worker_->welcome()) std::this_thread::yield();
  }

  using Reader = std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>>;
  Reader Generate(grpc::ClientContext& context, uint32_t max_tokens, uint32_t top_logprobs) {
    v1::GenerateRequest request;
    request.add_prompt_tokens(1);
    request.set_max_tokens(max_tokens);
    request.set_top_logprobs(top_logprobs);
    return stub_->Generate(&context, request);
  }

  // Reads a request to its end: its tokens count down from max_tokens. Returns how many came.
  uint32_t Drain(grpc::ClientReader<v1::GenerateEvent>& reader, uint32_t max_tokens) {
    v1::GenerateEvent event;
    uint32_t count = 0;
    while (reader.Read(&event)) {
      EXPECT_LT(event.ByteSizeLong(), 1u << 20);
      for (const uint32_t token : event.tokens().tokens()) EXPECT_EQ(token, max_tokens - count++);
    }
    return count;
  }

  MetricRegistry registry_;
  std::unique_ptr<CoordinatorService> service_;
  std::unique_ptr<v1::Coordinator::Stub> stub_;
  std::unique_ptr<ReadyWorker> worker_;
};

TEST_F(SlowClientTest, WhoDoesNotReadEndsAlone) {
  constexpr uint32_t kMaxTokens = 6000;  // 70 MB of alternatives
  grpc::ClientContext context;
  const Reader reader = Generate(context, kMaxTokens, 200);
  v1::GenerateEvent accepted;
  ASSERT_TRUE(reader->Read(&accepted)) << reader->Finish().error_message();
  while (worker_->num_stopped() == 0) std::this_thread::yield();

  grpc::ClientContext other_context;
  const Reader other = Generate(other_context, 100, 0);
  EXPECT_EQ(Drain(*other, 100), 100u);
  EXPECT_TRUE(other->Finish().ok());

  // What it reads at last is the beginning of its answer, and then why there is no more.
  EXPECT_LT(Drain(*reader, kMaxTokens), kMaxTokens);
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("the client does not read its answer"));
}

TEST_F(SlowClientTest, AnAnswerOfPlainTokensWaitsForItsReader) {
  grpc::ClientContext context;
  const Reader reader = Generate(context, 20'000, 0);
  v1::StatusResponse status;
  while (status.requests_finished() == 0) {
    grpc::ClientContext status_context;
    ASSERT_TRUE(stub_->Status(&status_context, {}, &status).ok());
  }
  EXPECT_EQ(Drain(*reader, 20'000), 20'000u);
  EXPECT_TRUE(reader->Finish().ok());
}

}  // namespace
}  // namespace tributary
