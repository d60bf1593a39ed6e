#include "client/api/client.h"

#include <atomic>
#include <thread>

#include "gmock/gmock.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "rpc/grpc_status.h"
#include "tests/testutil/silent_peer.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A coordinator that answers with what the test sets.
class FakeCoordinator final : public v1::Coordinator::Service {
 public:
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateEvent>* writer) override {
    for (const v1::GenerateEvent& event : events) writer->Write(event);
    running = true;
    while (wait_for_cancel && !context->IsCancelled()) std::this_thread::yield();
    return status;
  }
  grpc::Status Status(grpc::ServerContext*, const v1::StatusRequest*, v1::StatusResponse* response) override {
    response->set_version("9.9.9");
    return grpc::Status::OK;
  }

  std::vector<v1::GenerateEvent> events;
  grpc::Status status;
  bool wait_for_cancel = false;
  std::atomic<bool> running{false};
};

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&coordinator_);
    server_ = builder.BuildAndStart();
    client_ = std::make_unique<Client>("127.0.0.1:" + std::to_string(port));
  }

  FakeCoordinator coordinator_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientTest, HandlersSeeTheStreamInOrder) {
  coordinator_.events.resize(4);
  coordinator_.events[0].mutable_accepted()->set_request_id("r1");
  coordinator_.events[1].mutable_prefill()->set_fraction(0.5);
  coordinator_.events[2].mutable_tokens()->add_tokens(7);
  coordinator_.events[3].mutable_summary()->set_finish_reason("length");
  std::vector<std::string> seen;
  GenerateHandlers handlers;
  handlers.on_accepted = [&](const auto& accepted) { seen.push_back(accepted.request_id()); };
  handlers.on_prefill = [&](const auto& prefill) { seen.push_back("prefill"); };
  handlers.on_tokens = [&](const auto& chunk) { seen.push_back(std::to_string(chunk.tokens(0))); };
  const auto summary = client_->Generate({}, handlers);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->finish_reason(), "length");
  EXPECT_THAT(seen, ElementsAre("r1", "prefill", "7"));
}

TEST_F(ClientTest, ServerErrorsKeepTheirCodeAndSayWhenToRetry) {
  coordinator_.status = ToGrpcStatus(absl::ResourceExhaustedError("the pool is full"), 1'500'000'000);
  const auto summary = client_->Generate({}, {});
  EXPECT_EQ(summary.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(std::string(summary.status().message()), "the pool is full (retry after 1.5 s)");
}

TEST_F(ClientTest, StreamWithoutSummaryIsAnError) {
  EXPECT_EQ(client_->Generate({}, {}).status().code(), absl::StatusCode::kInternal);
}

TEST_F(ClientTest, CancelAllEndsRunningAndLaterRequests) {
  coordinator_.wait_for_cancel = true;
  std::thread canceller([&] {
    while (!coordinator_.running) std::this_thread::yield();
    client_->CancelAll();
  });
  const absl::Status cancelled = client_->Generate({}, {}).status();
  EXPECT_EQ(cancelled.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(cancelled.message(), "interrupted; the request is cancelled and its KV freed");
  canceller.join();
  EXPECT_EQ(client_->Generate({}, {}).status().code(), absl::StatusCode::kCancelled);
}

TEST_F(ClientTest, StatusIsHandedOn) {
  const auto status = client_->Status();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->version(), "9.9.9");
}

TEST(ClientWithoutServerTest, SaysWhichAddressDoesNotAnswer) {
  Client client("127.0.0.1:1");
  const auto status = client.WaitForConnection(0.05);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("127.0.0.1:1"));
}

TEST(ClientWithoutServerTest, ACoordinatorThatStandsStillIsGivenUp) {
  const testing::SilentPeer stopped(/*greeting_delay_ms=*/0);
  RpcOptions options;
  options.keepalive_interval_ns = 100 * kNsPerMs;
  options.keepalive_timeout_ns = 2 * kNsPerS;
  Client client(stopped.address(), options);
  const absl::Status status = client.Generate({}, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("nothing came from the coordinator at " + stopped.address() + " for "));
  EXPECT_THAT(message, HasSubstr("within 2 s"));
  EXPECT_THAT(message, HasSubstr("'tributary status --coordinator " + stopped.address() + "'"));
}

TEST_F(ClientTest, TextThatNoMessageCanCarryIsNotSent) {
  v1::GenerateRequest request;
  request.set_request_id("\xff");
  const auto refused = client_->Generate(request, {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("request_id '\\xff' has a byte that is not UTF-8"));
  EXPECT_FALSE(coordinator_.running);
  EXPECT_EQ(client_->Cancel("\xff").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClientTest, WhatRunsCanBeCancelledAndTheClientGoesOn) {
  coordinator_.wait_for_cancel = true;
  coordinator_.events.resize(1);
  coordinator_.events[0].mutable_tokens()->add_tokens(7);
  GenerateHandlers handlers;
  handlers.on_tokens = [this](const auto&) { client_->CancelRunning(); };
  EXPECT_EQ(client_->Generate({}, handlers).status().code(), absl::StatusCode::kCancelled);
  coordinator_.wait_for_cancel = false;
  coordinator_.events[0].mutable_summary()->set_finish_reason("length");
  EXPECT_TRUE(client_->Generate({}, {}).ok());
}

}  // namespace
}  // namespace tributary
