// The gRPC side of a node, over real gRPC on a free port and the in-process data plane.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "base/check.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/version.h"
#include "cpu_attention_service/edge/cpu_attention_service.h"
#include "cpu_attention_service/edge/node_registration.h"
#include "cpu_attention_service/node/attention_server.h"
#include "cpu_attention_service/node/io_loop.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "proto/convert.h"
#include "rpc/grpc_status.h"
#include "tests/unit/cpu_attention_service/node/test_shard.h"
#include "transport/inproc/inproc_network.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;
using testing::MakeSpec;

// A node without its process.
class Node {
 public:
  explicit Node(bool data_plane_mac = false) {
    AttentionServerOptions options;
    options.data_plane_mac = data_plane_mac;
    options.node_id = "n0";
    options.incarnation = 42;
    options.arena.bytes = 1 << 20;
    options.extent_bytes = 16 << 10;
    auto created = AttentionServer::Create(options, plane_.get(), &clock_, nullptr);
    TRIBUTARY_CHECK(created.ok());
    server_ = *std::move(created);
    loop_ = std::make_unique<IoLoop>(server_.get(), plane_.get(), &clock_);
    service_ = std::make_unique<CpuAttentionService>("n0", plane_->info(), data_plane_mac, loop_.get());
    loop_->Start();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.get());
    grpc_ = builder.BuildAndStart();
    stub_ = v1::CpuAttention::NewStub(
        grpc::CreateChannel(fmt::format("127.0.0.1:{}", port), grpc::InsecureChannelCredentials()));
  }
  ~Node() { grpc_->Shutdown(); }

  template <typename Method, typename Request, typename Response>
  grpc::Status Call(Method method, const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    return (stub_.get()->*method)(&context, request, response);
  }
  grpc::Status Connect(const v1::ConnectRequest& request, v1::ConnectResponse* response) {
    return Call(&v1::CpuAttention::Stub::Connect, request, response);
  }
  grpc::Status OpenShard(const ShardSpec& spec, v1::OpenShardResponse* response,
                         const WorkerIdentity& worker = {"w0", 1}) {
    v1::OpenShardRequest request;
    *request.mutable_shard() = ShardSpecToProto(spec);
    *request.mutable_worker() = WorkerIdentityToProto(worker);
    return Call(&v1::CpuAttention::Stub::OpenShard, request, response);
  }
  grpc::Status CloseShard(uint64_t id, uint64_t epoch, v1::CloseShardResponse* response) {
    v1::CloseShardRequest request;
    request.set_shard_id(id);
    request.set_epoch(epoch);
    return Call(&v1::CpuAttention::Stub::CloseShard, request, response);
  }

  InprocNetwork& network() { return network_; }
  DataPlane& plane() { return *plane_; }
  IoLoop& loop() { return *loop_; }
  size_t num_sessions() {
    size_t count = 0;
    TRIBUTARY_CHECK(loop_->Run([&](AttentionServer& server) { count = server.num_sessions(); }, kNsPerS).ok());
    return count;
  }

 private:
  RealClock clock_;
  InprocNetwork network_{1, &clock_};
  std::unique_ptr<DataPlane> plane_ = network_.Create("node");
  std::unique_ptr<AttentionServer> server_;
  std::unique_ptr<IoLoop> loop_;
  std::unique_ptr<CpuAttentionService> service_;
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<v1::CpuAttention::Stub> stub_;
};

class NodeServiceTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(InitLogging("test", "off").ok()); }

  v1::ConnectRequest GoodConnect() {
    v1::ConnectRequest request;
    request.set_worker_id("w0");
    request.set_protocol_version(kProtocolVersion);
    *request.mutable_transport() = TransportInfoToProto(worker_->info());
    return request;
  }

  Node node_;
  std::unique_ptr<DataPlane> worker_ = node_.network().Create("worker");
};

TEST_F(NodeServiceTest, ConnectGivesASession) {
  v1::ConnectResponse response;
  const grpc::Status status = node_.Connect(GoodConnect(), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.session_key().size(), 16u);
  EXPECT_NE(response.session_id(), 0u);
  EXPECT_EQ(response.epoch(), 42u);
  EXPECT_EQ(response.node_id(), "n0");
  EXPECT_EQ(response.transport().address(), "node");
  EXPECT_EQ(node_.num_sessions(), 1u);

  v1::DisconnectRequest disconnect;
  disconnect.set_session_id(response.session_id());
  v1::DisconnectResponse nothing;
  EXPECT_TRUE(node_.Call(&v1::CpuAttention::Stub::Disconnect, disconnect, &nothing).ok());
  EXPECT_EQ(node_.num_sessions(), 0u);
}

// Both sides want a MAC, or neither does: nobody gets less than was asked for.
TEST_F(NodeServiceTest, AMacIsAgreedOnOrRefused) {
  v1::ConnectResponse response;
  v1::ConnectRequest request = GoodConnect();
  ASSERT_TRUE(node_.Connect(request, &response).ok());
  EXPECT_EQ(response.payload_key().size(), 0u);
  request.set_data_plane_mac(true);
  grpc::Status status = node_.Connect(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("--data-plane-mac"));

  Node strict(/*data_plane_mac=*/true);
  const std::unique_ptr<DataPlane> worker = strict.network().Create("worker");
  ASSERT_TRUE(strict.Connect(request, &response).ok());
  EXPECT_EQ(response.session_key().size(), 16u);
  EXPECT_EQ(response.payload_key().size(), 16u);
  request.set_data_plane_mac(false);
  status = strict.Connect(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("without --data-plane-mac"));
  EXPECT_EQ(strict.num_sessions(), 1u);
}

TEST_F(NodeServiceTest, OtherVersionsAndTransportsAreRefused) {
  v1::ConnectResponse response;
  v1::ConnectRequest request = GoodConnect();
  request.set_protocol_version(99);
  grpc::Status status = node_.Connect(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("99"));

  request = GoodConnect();
  request.mutable_transport()->set_frame_version(7);
  EXPECT_EQ(node_.Connect(request, &response).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  request = GoodConnect();
  request.mutable_transport()->set_name("pigeon");
  status = node_.Connect(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("'pigeon'"));
  request = GoodConnect();
  request.set_worker_id("");
  EXPECT_EQ(node_.Connect(request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(node_.num_sessions(), 0u);
}

TEST(CheckCompatibleTest, NeedsACommonTransportBetweenProcesses) {
  const auto check = [](const char* ours, const char* theirs) {
    return CheckCompatible({"ucx", "1.13.1", ours, "a"}, {"ucx", "1.13.1", theirs, "b"}).ok();
  };
  EXPECT_TRUE(check("posix,sysv,self", "tcp,posix"));
  EXPECT_FALSE(check("posix,self", "tcp,self"));
  EXPECT_TRUE(check("shm,self", "posix"));
  EXPECT_TRUE(check("all", "tcp"));
  EXPECT_TRUE(check("", "tcp"));
  EXPECT_TRUE(check("^posix", "posix"));
}

TEST_F(NodeServiceTest, ShardsAreOpenedAndClosed) {
  const ShardSpec spec = MakeSpec(1, {4, 2, 64}, 100);
  v1::OpenShardResponse opened;
  ASSERT_TRUE(node_.OpenShard(spec, &opened).ok());
  EXPECT_GT(opened.reserved_bytes(), 0u);
  EXPECT_EQ(opened.free_bytes() + opened.reserved_bytes(), 1u << 20);
  v1::CloseShardResponse closed;
  EXPECT_EQ(node_.CloseShard(1, 0, &closed).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_TRUE(node_.CloseShard(1, 1, &closed).ok());
  EXPECT_EQ(closed.free_bytes(), 1u << 20);
}

TEST_F(NodeServiceTest, AShardIsOpenedForAWorker) {
  const ShardSpec spec = MakeSpec(1, {4, 2, 64}, 100);
  v1::OpenShardResponse opened;
  const grpc::Status nobody = node_.OpenShard(spec, &opened, {"", 1});
  EXPECT_EQ(nobody.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(nobody.error_message(), HasSubstr("worker_id is empty"));
  const grpc::Status too_long = node_.OpenShard(spec, &opened, {std::string(limits::kMaxNodeIdBytes + 1, 'w'), 1});
  EXPECT_EQ(too_long.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(too_long.error_message(), HasSubstr("worker_id"));
  v1::CloseShardResponse closed;
  ASSERT_TRUE(node_.CloseShard(1, 1, &closed).ok());
  EXPECT_EQ(closed.free_bytes(), 1u << 20) << "nothing was reserved";
  EXPECT_TRUE(node_.OpenShard(spec, &opened, {"w0", 1}).ok());
  EXPECT_TRUE(node_.OpenShard(spec, &opened, {"w1", 7}).ok()) << "another worker takes it over";
}

TEST_F(NodeServiceTest, AFullPoolTellsWhenToTryAgain) {
  v1::OpenShardResponse opened;
  const grpc::Status status = node_.OpenShard(MakeSpec(1, {4, 2, 64}, 1'000'000), &opened);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(RetryDelayNs(status).has_value());
}

TEST_F(NodeServiceTest, BadShardsAreInvalid) {
  v1::OpenShardResponse opened;
  ShardSpec spec = MakeSpec(1, {4, 2, 64}, 100);
  spec.k_dtype = DType::kUnset;
  EXPECT_EQ(node_.OpenShard(spec, &opened).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  spec = MakeSpec(1, {5, 2, 64}, 100);
  EXPECT_EQ(node_.OpenShard(spec, &opened).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

// A coordinator that answers what the test tells it to.
class FakeRegistry final : public v1::NodeRegistry::Service {
 public:
  FakeRegistry() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeRegistry() override { server_->Shutdown(); }

  grpc::Status Register(grpc::ServerContext*, const v1::RegisterRequest* request,
                        v1::RegisterResponse* response) override {
    response->set_heartbeat_interval_ns(10 * kNsPerMs);
    std::lock_guard lock(mutex_);
    registered_.push_back(request->node());
    changed_.notify_all();
    return Next(register_answers_);
  }
  grpc::Status Heartbeat(grpc::ServerContext*, const v1::HeartbeatRequest* request,
                         v1::HeartbeatResponse* response) override {
    std::lock_guard lock(mutex_);
    heartbeats_.push_back(*request);
    for (uint64_t orphan : orphans_) response->add_orphaned_shards(orphan);
    changed_.notify_all();
    return Next(heartbeat_answers_);
  }

  std::string address() const { return fmt::format("127.0.0.1:{}", port_); }
  void Answer(std::deque<grpc::Status> registrations, std::deque<grpc::Status> heartbeats) {
    std::lock_guard lock(mutex_);
    register_answers_ = std::move(registrations);
    heartbeat_answers_ = std::move(heartbeats);
  }
  void SetOrphans(std::vector<uint64_t> orphans) {
    std::lock_guard lock(mutex_);
    orphans_ = std::move(orphans);
  }
  // Waits until `done(registered, heartbeats)`; false after 10 s.
  template <typename Done>
  bool Wait(const Done& done) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return done(registered_, heartbeats_); });
  }

 private:
  static grpc::Status Next(std::deque<grpc::Status>& answers) {
    if (answers.empty()) return grpc::Status::OK;
    const grpc::Status answer = answers.front();
    answers.pop_front();
    return answer;
  }

  int port_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<v1::NodeInfo> registered_;
  std::vector<v1::HeartbeatRequest> heartbeats_;
  std::deque<grpc::Status> register_answers_;
  std::deque<grpc::Status> heartbeat_answers_;
  std::vector<uint64_t> orphans_;
  std::unique_ptr<grpc::Server> server_;
};

class NodeRegistrationTest : public NodeServiceTest {
 protected:
  std::unique_ptr<NodeRegistration> Start(const std::string& coordinator, int64_t id_patience_ns = 600 * kNsPerS) {
    v1::NodeInfo info;
    info.mutable_endpoint()->set_node_id("n0");
    info.mutable_endpoint()->set_incarnation(42);
    auto registration = std::make_unique<NodeRegistration>(
        coordinator, info, &node_.loop(),
        [this](const absl::Status& status) {
          std::lock_guard lock(mutex_);
          refusal_ = status;
          refused_.notify_all();
        },
        RpcOptions{}, id_patience_ns);
    registration->Start();
    return registration;
  }
  absl::Status WaitForRefusal() {
    std::unique_lock lock(mutex_);
    refused_.wait_for(lock, std::chrono::seconds(10), [&] { return !refusal_.ok(); });
    return refusal_;
  }

  FakeRegistry registry_;
  std::mutex mutex_;
  std::condition_variable refused_;
  absl::Status refusal_;
};

TEST_F(NodeRegistrationTest, RegistersAndSendsHeartbeatsAndDrains) {
  v1::OpenShardResponse opened;
  ASSERT_TRUE(node_.OpenShard(MakeSpec(5, {4, 2, 64}, 100), &opened).ok());
  auto registration = Start(registry_.address());
  ASSERT_TRUE(registry_.Wait([](const auto&, const auto& beats) { return beats.size() >= 2; }));
  registration->Stop();
  ASSERT_TRUE(registry_.Wait([&](const auto& registered, const auto& beats) {
    EXPECT_EQ(registered.size(), 1u);
    EXPECT_EQ(beats[0].incarnation(), 42u);
    EXPECT_EQ(beats[0].kv_free_bytes(), opened.free_bytes());
    EXPECT_EQ(beats[0].shards_size(), 1);
    EXPECT_EQ(beats[0].shards(0).shard_id(), 5u);
    EXPECT_FALSE(beats[0].draining());
    EXPECT_FALSE(beats[0].leaving());
    EXPECT_TRUE(beats.back().draining());
    EXPECT_TRUE(beats.back().leaving());
    return true;
  }));
}

TEST_F(NodeRegistrationTest, ADrainingNodeGoesOnSendingHeartbeats) {
  auto registration = Start(registry_.address());
  ASSERT_TRUE(registry_.Wait([](const auto&, const auto& beats) { return !beats.empty(); }));
  registration->SetDraining();
  EXPECT_TRUE(registry_.Wait([](const auto&, const auto& beats) {
    return std::count_if(beats.begin(), beats.end(), [](const auto& beat) { return beat.draining(); }) >= 3;
  }));
  EXPECT_FALSE(registration->coordinator_is_gone());
}

TEST_F(NodeRegistrationTest, KnowsThatTheCoordinatorIsGone) {
  const grpc::Status gone(grpc::StatusCode::UNAVAILABLE, "gone");
  registry_.Answer({}, std::deque<grpc::Status>(1000, gone));
  auto registration = Start(registry_.address());
  ASSERT_TRUE(registry_.Wait([](const auto&, const auto& beats) { return beats.size() >= 4; }));
  EXPECT_TRUE(registration->coordinator_is_gone());
}

TEST_F(NodeRegistrationTest, RetriesWhileTheCoordinatorIsUnavailable) {
  registry_.Answer({{grpc::StatusCode::UNAVAILABLE, "starting"}}, {});
  auto registration = Start(registry_.address());
  EXPECT_TRUE(registry_.Wait(
      [](const auto& registered, const auto& beats) { return registered.size() == 2 && beats.size() >= 1; }));
}

TEST_F(NodeRegistrationTest, RegistersAgainWhenForgotten) {
  registry_.Answer({}, {grpc::Status::OK, {grpc::StatusCode::NOT_FOUND, "who?"}});
  auto registration = Start(registry_.address());
  EXPECT_TRUE(registry_.Wait(
      [](const auto& registered, const auto& beats) { return registered.size() == 2 && beats.size() >= 3; }));
}

TEST_F(NodeRegistrationTest, ARefusalIsReportedWithTheCoordinatorsText) {
  registry_.Answer({{grpc::StatusCode::FAILED_PRECONDITION, "protocol version 1, not 2"}}, {});
  auto registration = Start(registry_.address());
  const absl::Status refusal = WaitForRefusal();
  EXPECT_EQ(refusal.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refusal.message()), HasSubstr("protocol version 1, not 2"));
  EXPECT_THAT(std::string(refusal.message()), HasSubstr(registry_.address()));
}

TEST_F(NodeRegistrationTest, WaitsForAnIdThatAnotherProcessMayLeave) {
  const grpc::Status taken(grpc::StatusCode::ALREADY_EXISTS, "node id 'n0' belongs to another process");
  registry_.Answer({taken, taken, taken}, {});
  auto registration = Start(registry_.address());
  EXPECT_TRUE(registry_.Wait(
      [](const auto& registered, const auto& beats) { return registered.size() == 4 && !beats.empty(); }));
}

TEST_F(NodeRegistrationTest, AnIdThatAnotherProcessKeepsIsARefusal) {
  const grpc::Status taken(grpc::StatusCode::ALREADY_EXISTS, "node id 'n0' belongs to another process");
  registry_.Answer(std::deque<grpc::Status>(1000, taken), {});
  auto registration = Start(registry_.address(), /*id_patience_ns=*/150 * kNsPerMs);
  const absl::Status refusal = WaitForRefusal();
  EXPECT_EQ(refusal.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(refusal.message()), HasSubstr("node id 'n0' belongs to another process"));
}

TEST_F(NodeRegistrationTest, OrphansAreFreed) {
  v1::OpenShardResponse opened;
  ASSERT_TRUE(node_.OpenShard(MakeSpec(5, {4, 2, 64}, 100), &opened).ok());
  registry_.SetOrphans({5, 6});
  auto registration = Start(registry_.address());
  EXPECT_TRUE(registry_.Wait([](const auto&, const auto& beats) {
    return !beats.empty() && beats.back().shards_size() == 0 && beats.back().kv_free_bytes() == 1u << 20;
  }));
}

}  // namespace
}  // namespace tributary
