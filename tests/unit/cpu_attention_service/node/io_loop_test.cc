#include "cpu_attention_service/node/io_loop.h"

#include <gtest/gtest.h>

#include <mutex>
#include <thread>

#include "base/log.h"
#include "tests/unit/cpu_attention_service/node/test_shard.h"
#include "transport/inproc/inproc_network.h"

namespace tributary {
namespace {

using testing::MakeSpec;

class IoLoopTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(InitLogging("test", "off").ok());
    AttentionServerOptions options;
    options.node_id = "n0";
    options.arena.bytes = 1 << 20;
    options.extent_bytes = 16 << 10;
    auto server = AttentionServer::Create(options, plane_.get(), &clock_, nullptr);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    loop_ = std::make_unique<IoLoop>(server_.get(), plane_.get(), &clock_);
    loop_->Start();
  }

  RealClock clock_;
  InprocNetwork network_{1, &clock_};
  std::unique_ptr<DataPlane> plane_ = network_.Create("node");
  std::unique_ptr<AttentionServer> server_;
  std::unique_ptr<IoLoop> loop_;
};

TEST_F(IoLoopTest, ManyThreadsUseOneServer) {
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 50; ++i) {
        const ShardSpec spec = MakeSpec(t * 100 + i, {4, 2, 64}, 10);
        absl::Status status;
        ASSERT_TRUE(loop_
                        ->Run(
                            [&](AttentionServer& server) {
                              status = server.OpenShard(spec, {"w0", 1}).status();
                            },
                            10 * kNsPerS)
                        .ok());
        ASSERT_TRUE(status.ok()) << status;
        ASSERT_TRUE(loop_->Post([id = spec.shard_id](AttentionServer& server) { server.DropOrphan(id); }));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  loop_->Stop();  // runs what was posted
  EXPECT_TRUE(server_->shards().empty());
  EXPECT_EQ(server_->free_bytes(), server_->capacity_bytes());
}

TEST_F(IoLoopTest, RefusesWorkOnceStopped) {
  loop_->Stop();
  EXPECT_EQ(loop_->Run([](AttentionServer&) {}, kNsPerS).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(loop_->Post([](AttentionServer&) {}));
}

TEST_F(IoLoopTest, WorkThatCannotBeginInTimeNeverRuns) {
  std::mutex gate;
  gate.lock();
  std::atomic<bool> holds{false};
  ASSERT_TRUE(loop_->Post([&](AttentionServer&) {
    holds = true;
    std::lock_guard wait(gate);
  }));
  while (!holds) std::this_thread::yield();
  bool ran = false;
  EXPECT_EQ(loop_->Run([&](AttentionServer&) { ran = true; }, kNsPerMs).code(), absl::StatusCode::kDeadlineExceeded);
  gate.unlock();
  EXPECT_TRUE(loop_->Run([](AttentionServer&) {}, 10 * kNsPerS).ok());
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace tributary
