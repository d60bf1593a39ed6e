#include "gpu_worker/remote/remote_nodes.h"

#include <vector>

#include "base/log.h"
#include "gtest/gtest.h"
#include "transport/inproc/inproc_network.h"
#include "wire/frame_builder.h"
#include "wire/frame_seal.h"

namespace tributary {
namespace {

constexpr SipKey kKey = {1, 2};

// A node's side of the data plane: answers nothing by itself, remembers what came.
class FakeNode final : public FrameHandler {
 public:
  FakeNode(InprocNetwork* network, const std::string& address) : plane(network->Create(address)) {}
  void Pair(const TransportInfo& worker) { peer = *plane->Connect(worker.address); }
  void OnFrame(std::span<const std::byte> header, std::span<const std::byte> payload) override {
    FrameHeader decoded;
    ASSERT_EQ(DecodeHeader(header, payload.size(), &decoded), FrameError::kOk);
    EXPECT_TRUE(VerifyHeader(kKey, decoded) && VerifyPayload(decoded, payload));
    received.push_back(decoded);
  }
  void OnPeerError(PeerId, const absl::Status&) override {}
  // A heartbeat with this header; session and a new sequence number are filled in.
  void Send(FrameHeader header = {}, const SipKey& key = kKey) {
    FrameBuffer frame = *plane->AllocateFrame(kHeartbeatPayloadBytes);
    WriteHeartbeat({.sent_ns = 1, .is_reply = 1}, frame.payload());
    if (header.session_id == 0) header.session_id = 5;
    if (header.frame_seq == 0) header.frame_seq = ++frame_seq;
    if (header.type == 0) header.type = static_cast<uint8_t>(FrameType::kHeartbeat);
    SealFrame(key, header, frame.payload());
    if (damage) frame.payload()[1] ^= std::byte{4};
    frame.header() = header;
    ASSERT_TRUE(plane->Send(peer, std::move(frame), SendClass::kEager).ok());
  }

  std::unique_ptr<DataPlane> plane;
  PeerId peer;
  uint64_t frame_seq = 0;
  bool damage = false;  // a bit of what is sent changes on the way
  std::vector<FrameHeader> received;
};

class RemoteNodesTest : public testing::Test, public BlockingConnector, public NodeListener {
 protected:
  RemoteNodesTest() : network_(1, &clock_), worker_(network_.Create("worker")), node_(&network_, "node") {
    (void)InitLogging("test", "off");
    nodes_ = std::make_unique<RemoteNodes>(RemoteNodesOptions{}, worker_.get(), this, &clock_, this, nullptr);
  }
  absl::StatusOr<NodeSession> Connect(const NodeEndpoint& node, const TransportInfo& local) override {
    ++num_connects_;
    if (!connect_status_.ok()) return connect_status_;
    node_.Pair(local);
    return NodeSession{node_.plane->info(), SessionId(5), {kKey, std::nullopt}, Epoch(session_epoch_), node.node_id};
  }
  void OnPartial(NodeIdx, const FrameHeader&, const PartialFrameView&) override {}
  void OnAck(NodeIdx, const FrameHeader&, const AckBody&) override {}
  void OnRejected(NodeIdx, const ErrorBody&, std::string_view) override {}
  void OnDamaged(NodeIdx, const FrameHeader& header) override { damaged_.push_back(header); }
  void OnNodeSilent(NodeIdx node, const absl::Status& status) override {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_NE(status.message().find("'cpu-0'"), std::string::npos);
    EXPECT_EQ(nodes_->state(node), RemoteNodes::State::kSilent);
    ++num_silences_;
  }
  void OnNodeFailed(NodeIdx, const absl::Status& status) override { failures_.push_back(status); }
  // Time passes, and we listen.
  void Listen(int64_t ns) {
    for (const int64_t end_ns = clock_.NowNs() + ns; clock_.NowNs() < end_ns;) {
      clock_.AdvanceNs(10 * kNsPerMs);
      nodes_->Poll();
    }
  }

  ManualClock clock_;
  InprocNetwork network_;
  std::unique_ptr<DataPlane> worker_;
  FakeNode node_;
  std::unique_ptr<RemoteNodes> nodes_;
  absl::Status connect_status_;
  uint64_t session_epoch_ = 3;
  int num_connects_ = 0;
  int num_silences_ = 0;
  std::vector<absl::Status> failures_;
  std::vector<FrameHeader> damaged_;
  const NodeEndpoint endpoint_{"cpu-0", 3, "host:1"};
};

TEST_F(RemoteNodesTest, PairsOnceAndIsHealthyWhenHeard) {
  const NodeIdx node = *nodes_->Acquire(endpoint_);
  EXPECT_EQ(*nodes_->Acquire(endpoint_), node);
  EXPECT_EQ(num_connects_, 1);
  EXPECT_EQ(nodes_->state(node), RemoteNodes::State::kConnecting);
  node_.Send();
  nodes_->Poll();
  EXPECT_EQ(nodes_->state(node), RemoteNodes::State::kHealthy);
  node_.plane->Poll(node_);
  ASSERT_EQ(node_.received.size(), 1u) << "a heartbeat at once";
  EXPECT_EQ(node_.received[0].frame_seq, 1u);
}

TEST_F(RemoteNodesTest, FramesThatDoNotBelongAreRejectedAndCounted) {
  (void)*nodes_->Acquire(endpoint_);
  node_.Send({.session_id = 6});
  node_.Send({}, SipKey{9, 9});
  node_.Send({.frame_seq = 50});
  node_.Send({.frame_seq = 50});
  FrameHeader query;
  query.type = static_cast<uint8_t>(FrameType::kQuery);
  node_.Send(query);
  nodes_->Poll();
  EXPECT_EQ(nodes_->frames_rejected(FrameError::kUnknownSession), 1u);
  EXPECT_EQ(nodes_->frames_rejected(FrameError::kBadAuthTag), 1u);
  EXPECT_EQ(nodes_->frames_rejected(FrameError::kReplayed), 1u);
  EXPECT_EQ(nodes_->frames_rejected(FrameError::kBadType), 1u);
  EXPECT_TRUE(failures_.empty());
}

TEST_F(RemoteNodesTest, ADamagedAnswerIsReportedAndItsSenderTold) {
  (void)*nodes_->Acquire(endpoint_);
  node_.plane->Poll(node_);
  node_.received.clear();
  node_.damage = true;
  node_.Send({.type = static_cast<uint8_t>(FrameType::kPartial), .step_id = 9, .layer = 2, .slot = 4});
  nodes_->Poll();
  EXPECT_EQ(nodes_->frames_rejected(FrameError::kBadPayload), 1u);
  ASSERT_EQ(damaged_.size(), 1u);
  EXPECT_EQ(damaged_[0].step_id, 9u);
  EXPECT_EQ(damaged_[0].layer, 2u);
  EXPECT_EQ(damaged_[0].slot, 4u);
  node_.plane->Poll(node_);
  ASSERT_EQ(node_.received.size(), 1u);
  EXPECT_EQ(node_.received[0].type, static_cast<uint8_t>(FrameType::kError));
  EXPECT_EQ(node_.received[0].slot, 4u);
  EXPECT_TRUE(failures_.empty());
}

TEST_F(RemoteNodesTest, ADamagedErrorFrameIsReportedAndNotAnswered) {
  (void)*nodes_->Acquire(endpoint_);
  node_.plane->Poll(node_);
  node_.received.clear();
  node_.damage = true;
  node_.Send({.type = static_cast<uint8_t>(FrameType::kError), .step_id = 9, .layer = 2, .slot = 4});
  nodes_->Poll();
  EXPECT_EQ(nodes_->frames_rejected(FrameError::kBadPayload), 1u);
  ASSERT_EQ(damaged_.size(), 1u);
  EXPECT_EQ(damaged_[0].step_id, 9u);
  node_.plane->Poll(node_);
  EXPECT_TRUE(node_.received.empty());
}

TEST_F(RemoteNodesTest, ANodeThatOwesAnAnswerIsSilentAndIsNotLost) {
  const NodeIdx node = *nodes_->Acquire(endpoint_);
  Listen(900 * kNsPerMs);
  EXPECT_EQ(num_silences_, 0) << "the first answers may take long";
  Listen(200 * kNsPerMs);
  EXPECT_EQ(num_silences_, 1);
  EXPECT_EQ(nodes_->num_silent(), 1u);
  EXPECT_GE(nodes_->silent_ns(node), kNsPerS);
  Listen(60 * kNsPerS);
  EXPECT_EQ(num_silences_, 1);
  EXPECT_TRUE(failures_.empty());
  node_.plane->Poll(node_);
  EXPECT_GE(node_.received.size(), 16u) << "heartbeats go on";
  EXPECT_LE(node_.received.size(), 30u) << "but become rarer";
  EXPECT_TRUE(nodes_->Send(node, *worker_->AllocateFrame(16), SendClass::kEager).ok());
  node_.Send();
  nodes_->Poll();
  EXPECT_EQ(nodes_->state(node), RemoteNodes::State::kHealthy);
  EXPECT_EQ(nodes_->num_silent(), 0u);
  EXPECT_EQ(nodes_->silent_ns(node), 0);
  EXPECT_GT(nodes_->recovered_ns(node), 60 * kNsPerS);
}

// It answers heartbeats within 10 ms for a while: then 60 ms without an answer is silence, and whoever waits for it
// learns it soon.
TEST_F(RemoteNodesTest, PatienceIsTwiceTheSlowestAnswerOfLate) {
  const NodeIdx node = *nodes_->Acquire(endpoint_);
  const auto listen = [&](int64_t ns, bool answers) {
    for (const int64_t end_ns = clock_.NowNs() + ns; clock_.NowNs() < end_ns;) {
      clock_.AdvanceNs(10 * kNsPerMs);
      nodes_->Poll();
      if (node_.plane->Poll(node_) > 0 && answers) node_.Send();
    }
  };
  listen(60 * kNsPerS, true);
  EXPECT_EQ(num_silences_, 0);
  nodes_->Poll();
  for (int i = 0; i < 9 && num_silences_ == 0; ++i) {
    nodes_->Await(node);
    clock_.AdvanceNs(10 * kNsPerMs);
    nodes_->Poll();
  }
  EXPECT_EQ(num_silences_, 1);
  listen(kNsPerS, false);
  node_.Send();
  nodes_->Poll();
  ASSERT_EQ(nodes_->state(node), RemoteNodes::State::kHealthy);
  // Patience is twice as long now, and not as long as the silence was.
  for (int i = 0; i < 30 && num_silences_ == 1; ++i) {
    nodes_->Await(node);
    clock_.AdvanceNs(10 * kNsPerMs);
    nodes_->Poll();
    EXPECT_TRUE(i >= 12 || num_silences_ == 1) << i;
  }
  EXPECT_EQ(num_silences_, 2);
}

TEST_F(RemoteNodesTest, SilenceWhileWeDidNotListenCountsForNothing) {
  (void)*nodes_->Acquire(endpoint_);
  for (int i = 0; i < 5; ++i) {
    clock_.AdvanceNs(10 * kNsPerS);  // a long piece of work, or a SIGSTOP
    nodes_->Poll();
  }
  EXPECT_EQ(num_silences_, 0);
}

TEST_F(RemoteNodesTest, ALostNodeIsPairedAnewForALaterSequence) {
  const NodeIdx node = *nodes_->Acquire(endpoint_);
  network_.Cut("worker", "node");
  nodes_->Poll();
  ASSERT_EQ(failures_.size(), 1u);
  EXPECT_EQ(*nodes_->Acquire(endpoint_), node);
  EXPECT_EQ(num_connects_, 2);
  node_.frame_seq = 0;
  node_.Send();
  nodes_->Poll();
  EXPECT_EQ(nodes_->state(node), RemoteNodes::State::kHealthy);
  EXPECT_EQ(failures_.size(), 1u);
}

TEST_F(RemoteNodesTest, ANodeThatFailsAtItsFirstFrameIsNotHandedOut) {
  network_.Kill("worker");  // nothing can be sent any more
  const absl::StatusOr<NodeIdx> node = nodes_->Acquire(endpoint_);
  EXPECT_EQ(node.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(node.status().message().find("'cpu-0'"), std::string::npos);
  EXPECT_EQ(num_connects_, 1);
}

// Incarnations are random: the next one is as often less as it is greater.
TEST_F(RemoteNodesTest, ANewIncarnationReplacesTheSession) {
  (void)*nodes_->Acquire(endpoint_);
  size_t num_restarts = 0;
  for (const uint64_t incarnation : {uint64_t{4}, uint64_t{2}, ~uint64_t{0}, uint64_t{1}}) {
    session_epoch_ = incarnation;
    EXPECT_TRUE(nodes_->Acquire({"cpu-0", incarnation, "host:1"}).ok()) << incarnation;
    ASSERT_EQ(failures_.size(), ++num_restarts);
    EXPECT_NE(failures_.back().message().find("restarted"), std::string::npos);
    EXPECT_EQ(nodes_->Acquire(endpoint_).status().code(), absl::StatusCode::kFailedPrecondition) << "an older route";
    EXPECT_EQ(failures_.size(), num_restarts) << "and the session stays";
  }
}

TEST_F(RemoteNodesTest, PairingErrorsNameTheNode) {
  connect_status_ = absl::UnavailableError("refused");
  const absl::Status refused = nodes_->Acquire(endpoint_).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(refused.message().find("'cpu-0' at host:1"), std::string::npos);
  connect_status_ = absl::OkStatus();
  session_epoch_ = 9;
  EXPECT_EQ(nodes_->Acquire(endpoint_).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace tributary
