// A shard is granted to one run of one worker: nobody else's frames may name it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cpu_attention_service/node/attention_server.h"
#include "tests/unit/cpu_attention_service/node/attention_server_fixture.h"

namespace tributary {
namespace {

using testing::AttentionServerTest;
using testing::FakeWorker;
using testing::kShape;
using testing::LayerKv;
using testing::MakeSpec;
using testing::RandomLayerKv;
using testing::Received;

class GrantsTest : public AttentionServerTest {
 protected:
  // From now on the test plays another worker; the one before keeps its session.
  std::unique_ptr<FakeWorker> BecomeAnother(const std::string& name) {
    std::unique_ptr<FakeWorker> before = std::move(worker_);
    worker_ = std::make_unique<FakeWorker>(network_, name);
    worker_->Connect(*server_, "node");
    return before;
  }
  void Query(const std::vector<QueryEntry>& entries) {
    worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload(entries, RandomQ(entries.size())));
    Settle();
  }
  void ExpectAnswered(const std::vector<QueryEntry>& entries) {
    Query(entries);
    const Received frame = Take(FrameType::kPartial);
    PartialFrameView view;
    ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
    for (uint32_t i = 0; i < entries.size(); ++i) EXPECT_EQ(view.entry(i).status, 0u);
  }
  uint64_t stored_tokens() const { return server_->shards()[0].stored_tokens; }
};

TEST_F(GrantsTest, AQueryOfAnotherWorkersShardIsRefused) {
  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 40, &kv);
  const std::unique_ptr<FakeWorker> owner = BecomeAnother("thief");
  Query({Entry(spec, 0, 40)});
  EXPECT_EQ(TakeError("shard 1 is not granted to worker thief (incarnation 1)"), FrameError::kNotGranted);
  EXPECT_EQ(Rejected(FrameError::kNotGranted), 1);
  EXPECT_EQ(metrics_.requests[0].value(), 0);
  EXPECT_EQ(metrics_.attended_tokens.value(), 0);
  EXPECT_TRUE(worker_->received().empty());
  EXPECT_EQ(server_->num_sessions(), 2u);
}

TEST_F(GrantsTest, ASpillToAnotherWorkersShardStoresNothing) {
  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 20, &kv);
  const LayerKv other = RandomLayerKv(spec, 20, random_);
  const uint64_t stored_before = stored_tokens();
  const double ingested_before = metrics_.ingest_bytes.value();
  std::unique_ptr<FakeWorker> owner = BecomeAnother("thief");
  // Of the layer that nobody has stored yet.
  worker_->Send(worker_->Header(FrameType::kSpill, 1), SpillPayload(spec, other, 0, 20));
  Settle();
  EXPECT_EQ(TakeError("shard 1 is not granted to worker thief (incarnation 1)"), FrameError::kNotGranted);
  EXPECT_EQ(Rejected(FrameError::kNotGranted), 1);
  EXPECT_EQ(stored_tokens(), stored_before);
  EXPECT_EQ(metrics_.ingest_bytes.value(), ingested_before);

  // Its own worker goes on as if nothing had been.
  worker_.swap(owner);
  EXPECT_EQ(static_cast<FrameError>(Spill(spec, kv, 0, 20, 1).status), FrameError::kOk);
  ExpectAnswered({Entry(spec, 0, 20)});
}

// The right to name shards is the session's, so the frame as a whole is refused, whatever else it names.
TEST_F(GrantsTest, NothingOfAFrameThatNamesAnothersShardIsDone) {
  LayerKv kv;
  const ShardSpec theirs = StoredShard(1, 40, &kv);
  const std::unique_ptr<FakeWorker> owner = BecomeAnother("second");
  const ShardSpec own = StoredShard(2, 40, &kv);
  Query({Entry(own, 0, 40), Entry(theirs, 0, 40)});
  EXPECT_EQ(TakeError("shard 1 is not granted to worker second"), FrameError::kNotGranted);
  EXPECT_EQ(metrics_.attended_tokens.value(), 0);
  ExpectAnswered({Entry(own, 0, 40)});
}

TEST_F(GrantsTest, AnotherRunOfTheWorkerIsAnotherWorker) {
  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 40, &kv);
  const std::string name = worker_->identity().id;
  worker_.reset();
  worker_ = std::make_unique<FakeWorker>(network_, name, /*incarnation=*/2);
  worker_->Connect(*server_, "node");
  Query({Entry(spec, 0, 40)});
  EXPECT_EQ(TakeError("shard 1 is not granted to worker " + name + " (incarnation 2)"), FrameError::kNotGranted);
  worker_->Send(worker_->Header(FrameType::kSpill, 1), SpillPayload(spec, kv, 0, 40));
  Settle();
  EXPECT_EQ(TakeError(), FrameError::kNotGranted);
  EXPECT_EQ(Rejected(FrameError::kNotGranted), 2);
}

TEST_F(GrantsTest, ANewSessionOfTheSameRunKeepsItsShards) {
  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 40, &kv);
  const std::string name = worker_->identity().id;
  worker_.reset();
  worker_ = std::make_unique<FakeWorker>(network_, name);
  worker_->Connect(*server_, "node");
  ExpectAnswered({Entry(spec, 0, 40)});
}

TEST_F(GrantsTest, OpeningAgainMovesTheGrant) {
  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 40, &kv);
  const uint64_t free_before = server_->free_bytes();
  std::unique_ptr<FakeWorker> first = BecomeAnother("second");
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(server_->OpenShard(spec, worker_->identity()).ok());
  EXPECT_EQ(server_->free_bytes(), free_before);
  ExpectAnswered({Entry(spec, 0, 40)});
  worker_.swap(first);
  Query({Entry(spec, 0, 40)});
  EXPECT_EQ(TakeError("shard 1 is not granted to worker worker1"), FrameError::kNotGranted);
  // An open that fails moves nothing.
  ShardSpec other = spec;
  other.capacity_tokens += 1;
  EXPECT_EQ(server_->OpenShard(other, worker_->identity()).status().code(), absl::StatusCode::kAlreadyExists);
  worker_.swap(first);
  ExpectAnswered({Entry(spec, 0, 40)});
}

}  // namespace
}  // namespace tributary
