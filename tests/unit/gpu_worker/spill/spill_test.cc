#include "gpu_worker/spill/spill.h"

#include <map>
#include <numeric>
#include <tuple>
#include <vector>

#include "base/limits.h"
#include "base/log.h"
#include "gpu_worker/device/pack_heads.h"
#include "gpu_worker/device/policy/hgca/maw_facet.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/spill/prefill_job.h"
#include "gtest/gtest.h"
#include "policy/hgca/spill_section.h"
#include "tests/testutil/hgca_policy.h"
#include "tests/testutil/tiny_device.h"
#include "transport/inproc/inproc_network.h"

namespace tributary {
namespace {

constexpr AttentionShape kShape{.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};
constexpr uint32_t kNumLayers = 3;
const LayerMap kLayers(kNumLayers, {});

// Keeps what was sent to it.
class SpillSink final : public FrameHandler {
 public:
  struct Spill {
    FrameHeader header;
    SpillBody body;
    std::vector<std::byte> k, v, policy;
  };
  void OnFrame(std::span<const std::byte> header, std::span<const std::byte> payload) override {
    FrameHeader decoded;
    ASSERT_EQ(DecodeHeader(header, payload.size(), &decoded), FrameError::kOk);
    if (decoded.type != static_cast<uint8_t>(FrameType::kSpill)) return;
    SpillView view;
    ASSERT_EQ(SpillView::Decode(payload, &view), FrameError::kOk);
    spills.push_back({decoded,
                      view.body(),
                      {view.k().begin(), view.k().end()},
                      {view.v().begin(), view.v().end()},
                      {view.policy().begin(), view.policy().end()}});
  }
  void OnPeerError(PeerId, const absl::Status&) override {}
  std::vector<Spill> spills;
};

// Leaves the frame as it is.
class NothingReader final : public KvReader {
 public:
  explicit NothingReader(TinyDevice& device) : device_(device) {}
  CopyTicket Read(HeadRange, std::span<std::byte>, std::span<std::byte>) const override {
    return device_.copies_take_time ? ++device_.copies_started : 0;
  }

 private:
  TinyDevice& device_;
};

class SpillTest : public testing::Test, public BlockingConnector, public NodeListener {
 protected:
  SpillTest()
      : network_(1, &clock_),
        worker_(network_.Create("worker")),
        node_plane_(network_.Create("node")),
        other_plane_(network_.Create("other")) {
    (void)InitLogging("test", "off");
    RemoteNodesOptions options;
    options.min_silence_ns = options.max_silence_ns = 1000 * kNsPerS;
    nodes_ = std::make_unique<RemoteNodes>(options, worker_.get(), this, &clock_, this, nullptr);
    node_ = *nodes_->Acquire({"cpu-0", 1, "host:1"});
    other_ = *nodes_->Acquire({"cpu-1", 1, "host:2"});
    sender_ = std::make_unique<SpillSender>(SpillOptions{.window_bytes = 4000, .timeout_ns = kNsPerS}, &device_,
                                            worker_.get(), nodes_.get(), nullptr);
  }
  absl::StatusOr<NodeSession> Connect(const NodeEndpoint& node, const TransportInfo&) override {
    const DataPlane& plane = node.node_id == "cpu-0" ? *node_plane_ : *other_plane_;
    return NodeSession{plane.info(), SessionId(5), {SipKey{1, 2}, std::nullopt}, Epoch(1), node.node_id};
  }
  void OnPartial(NodeIdx, const FrameHeader&, const PartialFrameView&) override {}
  void OnAck(NodeIdx, const FrameHeader&, const AckBody&) override {}
  void OnRejected(NodeIdx, const ErrorBody&, std::string_view) override {}
  void OnDamaged(NodeIdx, const FrameHeader&) override {}
  void OnNodeSilent(NodeIdx, const absl::Status&) override {}
  void OnNodeFailed(NodeIdx, const absl::Status&) override {}

  BoundShard Shard(uint64_t id, uint32_t head_begin = 0, uint32_t head_end = 2) const {
    ShardSpec spec;
    spec.shard_id = ShardId(id);
    spec.sequence_id = SequenceId(1);
    spec.epoch = Epoch(8);
    spec.model = kShape;
    spec.num_layers = spec.layer_end = kNumLayers;
    spec.kv_head_begin = head_begin;
    spec.kv_head_end = head_end;
    spec.stripe = {.origin = 4, .stripe_tokens = 8, .num_stripes = 1, .stripe_idx = 0};
    spec.capacity_tokens = 1000;
    spec.k_dtype = spec.v_dtype = DType::kF32;
    return {spec, {{node_}}, DType::kF32};
  }
  SpillSender::Sent Send(const BoundShard& shard, uint64_t token, uint32_t num_tokens = 8, uint32_t layer = 0) {
    return sender_->Send(shard, node_, layer, token, num_tokens, NothingReader(device_));
  }
  AckBody Ack(const SpillSink::Spill& spill, FrameError status = FrameError::kOk) const {
    return {.shard_id = spill.body.shard_id,
            .token_begin = spill.body.token_begin,
            .num_tokens = spill.body.num_tokens,
            .status = static_cast<uint32_t>(status)};
  }
  void Deliver() { node_plane_->Poll(sink_); }

  TinyDevice device_{TinyModel{}, {.max_batch = 1, .max_partial_slots = 1}};
  ManualClock clock_;
  InprocNetwork network_;
  std::unique_ptr<DataPlane> worker_, node_plane_, other_plane_;
  std::unique_ptr<RemoteNodes> nodes_;
  std::unique_ptr<SpillSender> sender_;
  NodeIdx node_ = kNoNode, other_ = kNoNode;
  SpillSink sink_;
};

TEST(PackHeadsTest, TakesTheHeadsOfEachToken) {
  std::vector<std::byte> rows(3 * 4 * 2);  // 3 tokens, 4 heads of 2 bytes
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::byte>(i);
  std::vector<std::byte> packed(3 * 2 * 2);
  PackHeads(rows, 3, 4, 2, {1, 3}, packed);
  const std::vector<int> expected = {2, 3, 4, 5, 10, 11, 12, 13, 18, 19, 20, 21};
  for (size_t i = 0; i < packed.size(); ++i) EXPECT_EQ(static_cast<int>(packed[i]), expected[i]);
}

TEST_F(SpillTest, TheWindowBoundsWhatIsInFlight) {
  const BoundShard shard = Shard(1);
  EXPECT_EQ(Send(shard, 4), SpillSender::Sent::kSent);
  EXPECT_EQ(Send(shard, 12), SpillSender::Sent::kSent);
  EXPECT_EQ(Send(shard, 20), SpillSender::Sent::kSent);
  EXPECT_EQ(Send(shard, 28), SpillSender::Sent::kNoRoom) << "4 x 1128 bytes do not fit into 4000";
  EXPECT_EQ(sender_->in_flight(SequenceId(1)), 3u);
  Deliver();
  ASSERT_EQ(sink_.spills.size(), 3u);
  EXPECT_FALSE(sender_->OnAck(node_, 0, Ack(sink_.spills[1])).has_value());
  EXPECT_FALSE(sender_->OnAck(node_, 0, Ack(sink_.spills[1])).has_value()) << "a duplicate";
  EXPECT_FALSE(sender_->OnAck(node_, 1, Ack(sink_.spills[0])).has_value()) << "another layer";
  EXPECT_EQ(sender_->in_flight(SequenceId(1)), 2u);
  EXPECT_EQ(Send(shard, 28), SpillSender::Sent::kSent);
  sender_->Drop(SequenceId(1));
  EXPECT_EQ(sender_->num_in_flight(), 0u);
  EXPECT_EQ(sender_->bytes_in_flight(node_), 0u);
}

TEST_F(SpillTest, ABigFrameGoesAlone) {
  EXPECT_EQ(Send(Shard(1), 4, 100), SpillSender::Sent::kSent);
  EXPECT_EQ(Send(Shard(1), 104, 1), SpillSender::Sent::kNoRoom);
}

TEST_F(SpillTest, NoFrameIsOvertakenByMoreThanTheReplayWindowBears) {
  static_assert(SpillSender::kMaxFrameSeqSpread < ReplayWindow::kWindowFrames);
  EXPECT_EQ(Send(Shard(1), 4, 1), SpillSender::Sent::kSent);
  for (uint64_t i = 1; i < SpillSender::kMaxFrameSeqSpread; ++i) {
    Deliver();
    FrameBuffer frame = *worker_->AllocateFrame(16);
    frame.header().type = static_cast<uint8_t>(FrameType::kHeartbeat);
    ASSERT_TRUE(nodes_->Send(node_, std::move(frame), SendClass::kEager).ok());
  }
  EXPECT_EQ(Send(Shard(1), 5, 1), SpillSender::Sent::kNoRoom);
}

TEST_F(SpillTest, TheQueriesOfOneStepHoldUpNoSpill) {
  EXPECT_EQ(Send(Shard(1), 4, 1), SpillSender::Sent::kSent);
  for (uint32_t layer = 0; layer < limits::kMaxLayers; ++layer) {
    Deliver();
    FrameBuffer frame = *worker_->AllocateFrame(16);
    frame.header().type = static_cast<uint8_t>(FrameType::kQuery);
    ASSERT_TRUE(nodes_->Send(node_, std::move(frame), SendClass::kEager).ok());
  }
  EXPECT_EQ(Send(Shard(1), 5, 1), SpillSender::Sent::kSent);
}

TEST_F(SpillTest, ARefusalAndAnOverdueFrameFailTheSequence) {
  EXPECT_EQ(Send(Shard(1), 4), SpillSender::Sent::kSent);
  EXPECT_EQ(Send(Shard(2, 1, 2), 4), SpillSender::Sent::kSent);
  Deliver();
  const auto refused = sender_->OnAck(node_, 0, Ack(sink_.spills[0], FrameError::kOutOfRange));
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(refused->sequence, SequenceId(1));
  EXPECT_NE(refused->status.message().find("out_of_range"), std::string::npos) << refused->status;
  EXPECT_TRUE(sender_->FindOverdue().empty());
  for (int i = 0; i < 11; ++i) {
    clock_.AdvanceNs(100 * kNsPerMs);
    nodes_->Poll();
  }
  const auto overdue = sender_->FindOverdue();
  ASSERT_EQ(overdue.size(), 1u);
  EXPECT_EQ(overdue[0].node, node_);
  EXPECT_EQ(overdue[0].status.code(), absl::StatusCode::kDeadlineExceeded);
  const ErrorBody rejected{.error = static_cast<uint32_t>(FrameError::kBadGeometry),
                           .rejected_frame_seq = sink_.spills[1].header.frame_seq};
  const auto rejection = sender_->OnRejected(node_, rejected, "not\nso");
  ASSERT_TRUE(rejection.has_value());
  EXPECT_EQ(rejection->status.message(), "it rejected a spill to shard 2: bad_geometry (not\\nso)");
  EXPECT_FALSE(sender_->OnRejected(node_, rejected, "").has_value());
  EXPECT_EQ(sender_->num_in_flight(), 0u);
}

TEST_F(SpillTest, ADamagedAcknowledgementFailsTheSequence) {
  EXPECT_EQ(Send(Shard(1), 4), SpillSender::Sent::kSent);
  EXPECT_EQ(Send(Shard(1), 12), SpillSender::Sent::kSent);
  Deliver();
  ASSERT_EQ(sink_.spills.size(), 2u);
  FrameHeader header = sink_.spills[1].header;
  header.type = static_cast<uint8_t>(FrameType::kPartial);
  EXPECT_FALSE(sender_->OnDamaged(node_, header).has_value()) << "no acknowledgement";
  header.type = static_cast<uint8_t>(FrameType::kAck);
  EXPECT_FALSE(sender_->OnDamaged(node_ + 1, header).has_value()) << "another node";
  const auto failure = sender_->OnDamaged(node_, header);
  ASSERT_TRUE(failure.has_value());
  EXPECT_EQ(failure->sequence, SequenceId(1));
  EXPECT_EQ(failure->node, node_);
  EXPECT_NE(failure->status.message().find("bad_payload"), std::string::npos) << failure->status;
  EXPECT_FALSE(sender_->OnDamaged(node_, header).has_value()) << "a late one";
  EXPECT_EQ(sender_->num_in_flight(), 1u);
}

TEST_F(SpillTest, ADamagedRefusalFailsTheSequenceOfItsSpill) {
  EXPECT_EQ(Send(Shard(1), 4), SpillSender::Sent::kSent);
  EXPECT_EQ(Send(Shard(2, 1, 2), 4), SpillSender::Sent::kSent);
  Deliver();
  ASSERT_EQ(sink_.spills.size(), 2u);
  FrameHeader header = sink_.spills[1].header;
  header.type = static_cast<uint8_t>(FrameType::kError);
  for (uint64_t step = 0; step < 100; ++step) {
    FrameHeader of_step = header;
    of_step.step_id = step;
    ASSERT_FALSE(sender_->OnDamaged(node_, of_step).has_value()) << "of a query of step " << step;
  }
  const auto failure = sender_->OnDamaged(node_, header);
  ASSERT_TRUE(failure.has_value());
  EXPECT_EQ(failure->sequence, SequenceId(1));
  EXPECT_EQ(failure->status.message(), "its answer to a spill to shard 2 was damaged on the way: bad_payload");
  EXPECT_EQ(sender_->num_in_flight(), 1u);
}

// The device copies into the frame while everything else goes on: it leaves when the copy is done, in order.
TEST_F(SpillTest, AFrameLeavesOnceItsCopyIsDone) {
  device_.copies_take_time = true;
  EXPECT_EQ(Send(Shard(1), 4), SpillSender::Sent::kSent);
  EXPECT_EQ(Send(Shard(1), 12), SpillSender::Sent::kSent);
  EXPECT_EQ(Send(Shard(1), 20), SpillSender::Sent::kSent);
  EXPECT_EQ(Send(Shard(1), 28), SpillSender::Sent::kNoRoom) << "unsent frames count, too";
  EXPECT_EQ(sender_->in_flight(SequenceId(1)), 3u);
  EXPECT_EQ(sender_->Pump(), 0);
  device_.copies_done = 2;
  EXPECT_EQ(sender_->Pump(), 2);
  Deliver();
  ASSERT_EQ(sink_.spills.size(), 2u);
  EXPECT_EQ(sink_.spills[1].body.token_begin, 12u);
  EXPECT_FALSE(sender_->OnAck(node_, 0, Ack(sink_.spills[1])).has_value());
  EXPECT_EQ(sender_->in_flight(SequenceId(1)), 2u);
  device_.copies_take_time = false;
  EXPECT_EQ(Send(Shard(1), 28), SpillSender::Sent::kSent);
  EXPECT_EQ(sender_->Pump(), 0) << "not before the one that is being copied";
  device_.copies_done = 3;
  EXPECT_EQ(sender_->Pump(), 2);
}

TEST_F(SpillTest, AFrameOfAnEndedSequenceStaysUntilItsCopyIsDone) {
  device_.copies_take_time = true;
  EXPECT_EQ(Send(Shard(1), 4), SpillSender::Sent::kSent);
  sender_->Drop(SequenceId(1));
  EXPECT_EQ(sender_->in_flight(SequenceId(1)), 0u);
  EXPECT_EQ(sender_->bytes_in_flight(node_), 0u);
  device_.copies_done = 1;
  EXPECT_EQ(sender_->Pump(), 0);
  Deliver();
  EXPECT_TRUE(sink_.spills.empty());
}

// Two token stripes of which one is cut by heads: all remote tokens arrive once, layer by layer, and the job waits for
// room.
TEST_F(SpillTest, PrefillStreamsEveryRemoteTokenOnce) {
  TinyModel model;
  TinyDevice device(
      model, {.max_batch = 1, .max_partial_slots = 2, .resident_pool_bytes = 1 << 20, .max_prefill_tokens = 4096});
  const WindowLayout layout{.sink_tokens = 4, .window_tokens = 16, .block_tokens = 8};
  std::vector<uint32_t> prompt(700);
  std::iota(prompt.begin(), prompt.end(), 0);
  for (uint32_t& token : prompt) token %= model.vocab_size;
  WindowCache cache(layout, 710);
  cache.Prefilled(prompt.size());
  std::vector<BoundShard> shards = {Shard(1), Shard(2, 0, 1), Shard(3, 1, 2)};
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].spec.stripe.num_stripes = 2;
    shards[i].spec.stripe.stripe_idx = i == 0 ? 0 : 1;
  }
  const PrefillInput input{.prompt = prompt,
                           .kv_dtype = DType::kF32,
                           .resident = *device.ReserveResident({cache.capacity_tokens(), DType::kF32}),
                           .cache = &cache,
                           .shards = shards,
                           .layers = LayerMap(model.num_layers, {}),
                           .num_q_heads = 4,
                           .num_kv_heads = 2,
                           .head_dim = 8,
                           .spill_frame_bytes = 512};
  PrefillJob job(input, &device, sender_.get());
  int waits = 0;
  double fraction = 0;
  size_t acked = 0;
  while (true) {
    const PrefillJob::Progress progress = *job.RunUnit();
    EXPECT_GE(job.fraction(), fraction);
    fraction = job.fraction();
    if (progress == PrefillJob::Progress::kDone) break;
    if (progress != PrefillJob::Progress::kWaiting) continue;
    ++waits;
    Deliver();
    for (; acked < sink_.spills.size(); ++acked) {
      const auto& spill = sink_.spills[acked];
      EXPECT_FALSE(sender_->OnAck(node_, spill.header.layer, Ack(spill)).has_value());
    }
  }
  EXPECT_GT(waits, 0);
  EXPECT_EQ(fraction, 1.0);
  Deliver();
  // [layer][token][head] seen how often
  std::vector<int> seen(model.num_layers * 700 * 2);
  for (const auto& spill : sink_.spills) {
    EXPECT_LE(spill.k.size() + spill.v.size(), 512u);
    const BoundShard& shard = shards[spill.body.shard_id - 1];
    for (uint64_t t = spill.body.token_begin; t < spill.body.token_begin + spill.body.num_tokens; ++t) {
      EXPECT_TRUE(shard.spec.stripe.Owns(t));
      for (uint32_t h = shard.spec.kv_head_begin; h < shard.spec.kv_head_end; ++h)
        ++seen[(spill.header.layer * 700 + t) * 2 + h];
    }
  }
  for (size_t i = 0; i < seen.size(); ++i) {
    const uint64_t token = i / 2 % 700;
    ASSERT_EQ(seen[i], token >= 4 && token < cache.remote().end ? 1 : 0) << "token " << token;
  }
  EXPECT_FALSE(job.logits().empty());
}

class ReadCountingDevice final : public TinyDevice {
 public:
  using TinyDevice::TinyDevice;
  CopyTicket ReadResident(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads, std::span<std::byte> k,
                          std::span<std::byte> v) override {
    ++num_reads;
    return TinyDevice::ReadResident(id, layer, slots, heads, k, v);
  }
  int num_reads = 0;
};

// A block that is too big for one frame goes in several, and waits for room between them.
TEST_F(SpillTest, ABigBlockIsCutIntoFrames) {
  constexpr uint32_t kFrameBytes = 3000;  // 23 of the block's 64 tokens
  TinyModel model;
  ReadCountingDevice device(
      model, {.max_batch = 1, .max_partial_slots = 1, .resident_pool_bytes = 1 << 20, .max_prefill_tokens = 4096});
  Sequence sequence;
  sequence.plan.kv_dtype = DType::kF32;
  sequence.cache = WindowCache({.sink_tokens = 4, .window_tokens = 64, .block_tokens = 64}, 4 + 64 * 6);
  sequence.cache.Prefilled(4 + 64 * 4);
  sequence.resident = *device.ReserveResident({sequence.cache.capacity_tokens(), DType::kF32});
  sequence.shards = {Shard(1)};
  sequence.shards[0].spec.stripe.stripe_tokens = 64;
  const uint64_t begin = sequence.cache.remote().end;
  sequence.spill = BlockSpill{.block = {begin, begin + 64}};
  size_t acked = 0;
  for (int i = 0; i < 100 && !sequence.spill->all_sent; ++i) {
    EXPECT_TRUE(PumpSpill(sequence, kLayers, &device, sender_.get(), kFrameBytes));
    const int num_reads = device.num_reads;
    if (!sequence.spill->all_sent) {
      EXPECT_FALSE(PumpSpill(sequence, kLayers, &device, sender_.get(), kFrameBytes));
      EXPECT_EQ(device.num_reads, num_reads) << "in vain: the window is full";
    }
    Deliver();
    for (; acked < sink_.spills.size(); ++acked) {
      const auto& spill = sink_.spills[acked];
      EXPECT_FALSE(sender_->OnAck(node_, spill.header.layer, Ack(spill)).has_value());
    }
  }
  ASSERT_TRUE(sequence.spill->all_sent);
  EXPECT_EQ(sender_->in_flight(SequenceId(1)), 0u);
  ASSERT_EQ(sink_.spills.size(), kNumLayers * 3);
  for (size_t i = 0; i < sink_.spills.size(); ++i) {
    const auto& spill = sink_.spills[i];
    EXPECT_EQ(spill.header.layer, i / 3);
    EXPECT_EQ(spill.body.token_begin, begin + i % 3 * 23);
    EXPECT_EQ(spill.body.num_tokens, i % 3 == 2 ? 18u : 23u);
    EXPECT_LE(spill.k.size() + spill.v.size(), kFrameBytes);
  }
}

// A block of a shard that two nodes hold goes to both, and counts as acknowledged once both have acknowledged all of
// it. A holder that is lost is not waited for, and gets no more.
TEST_F(SpillTest, EachHolderIsSentEverythingAndAcknowledgesIt) {
  TinyDevice device(
      TinyModel{},
      {.max_batch = 1, .max_partial_slots = 1, .resident_pool_bytes = 1 << 20, .max_prefill_tokens = 4096});
  for (const bool is_lost : {false, true}) {
    Sequence sequence;
    sequence.plan.kv_dtype = DType::kF32;
    sequence.cache = WindowCache({.sink_tokens = 4, .window_tokens = 16, .block_tokens = 16}, 400);
    sequence.cache.Prefilled(4 + 16 * 4);
    sequence.resident = *device.ReserveResident({sequence.cache.capacity_tokens(), DType::kF32});
    sequence.shards = {Shard(is_lost ? 2 : 1)};
    sequence.shards[0].holders.push_back({.node = other_});
    const uint64_t begin = sequence.cache.remote().end;
    sequence.spill = BlockSpill{.block = {begin, begin + 16}};
    SpillSink node_sink, other_sink;
    // The nodes' windows take a part of it.
    PumpSpill(sequence, kLayers, &device, sender_.get(), 512);
    node_plane_->Poll(node_sink);
    other_plane_->Poll(other_sink);
    const uint32_t num_sent = sender_->in_flight(SequenceId(1));
    EXPECT_EQ(num_sent, node_sink.spills.size() + other_sink.spills.size());
    ASSERT_FALSE(other_sink.spills.empty());
    ASSERT_FALSE(sequence.spill->all_sent);
    for (const auto& spill : node_sink.spills) sender_->OnAck(node_, spill.header.layer, Ack(spill));
    EXPECT_EQ(sender_->in_flight(SequenceId(1)), other_sink.spills.size()) << "the other has acknowledged nothing";
    if (is_lost) {
      EXPECT_TRUE(sequence.LoseHolder(other_));
      sender_->DropHolder(SequenceId(1), other_);
      EXPECT_EQ(sender_->in_flight(SequenceId(1)), 0u);
      EXPECT_EQ(sender_->bytes_in_flight(other_), 0u);
    }
    size_t node_acked = node_sink.spills.size(), other_acked = 0;
    for (int i = 0; i < 20; ++i) {
      PumpSpill(sequence, kLayers, &device, sender_.get(), 512);
      node_plane_->Poll(node_sink);
      if (!is_lost) other_plane_->Poll(other_sink);
      for (; node_acked < node_sink.spills.size(); ++node_acked) {
        const auto& spill = node_sink.spills[node_acked];
        EXPECT_FALSE(sender_->OnAck(node_, spill.header.layer, Ack(spill)).has_value());
      }
      for (; !is_lost && other_acked < other_sink.spills.size(); ++other_acked) {
        const auto& spill = other_sink.spills[other_acked];
        EXPECT_GT(sender_->in_flight(SequenceId(1)), 0u);
        EXPECT_FALSE(sender_->OnAck(other_, spill.header.layer, Ack(spill)).has_value());
      }
    }
    EXPECT_TRUE(sequence.spill->all_sent);
    EXPECT_EQ(sender_->in_flight(SequenceId(1)), 0u);
    std::vector<int> seen(kNumLayers * 16);
    for (const auto& spill : node_sink.spills) {
      for (uint32_t t = 0; t < spill.body.num_tokens; ++t)
        ++seen[spill.header.layer * 16 + spill.body.token_begin - begin + t];
    }
    EXPECT_EQ(seen, std::vector<int>(kNumLayers * 16, 1));
    if (is_lost) continue;
    ASSERT_EQ(other_sink.spills.size(), node_sink.spills.size());
    for (size_t i = 0; i < node_sink.spills.size(); ++i) {
      EXPECT_EQ(other_sink.spills[i].k, node_sink.spills[i].k);
      EXPECT_EQ(other_sink.spills[i].body.token_begin, node_sink.spills[i].body.token_begin);
    }
  }
}

// A sequence of HGCA, stepped without any remote tokens.
struct SteppedSequence {
  SteppedSequence() {
    sequence.plan.kv_dtype = DType::kF32;
    sequence.cache = WindowCache({.sink_tokens = 4, .window_tokens = 8, .block_tokens = 8}, 400);
    const PolicyParams policy = HgcaPolicyWith({0.5f});
    sequence.resident = *device.ReserveResident({sequence.cache.capacity_tokens(), DType::kF32, &policy});
    sequence.facet = device.facet(sequence.resident);
    sequence.cache.Prefilled(1);
    const std::unique_ptr<Prefill> prefill = device.BeginPrefill(std::vector<uint32_t>{3}, DType::kF32).value();
    for (uint32_t layer = 0; layer < kNumLayers; ++layer) {
      prefill->Project(layer, 0, 1);
      prefill->Attend(layer, 0, 1);
      prefill->Keep(layer, sequence.resident, 0, {0, 1});
    }
  }
  void Step() {
    const uint64_t pos = sequence.cache.context_tokens();
    const DecodeRow row{.token = static_cast<uint32_t>(pos % 50),
                        .pos = pos,
                        .resident = sequence.resident,
                        .append_slot = sequence.cache.Append(),
                        .attend = sequence.cache.AttendRanges()};
    device.BeginStep({&row, 1});
    const uint32_t no_slots = 0;
    for (uint32_t layer = 0; layer < kNumLayers; ++layer) {
      device.AwaitQuery(layer);
      device.AttendResident(layer);
      device.FinishLayer(layer, {&no_slots, 1});
    }
    device.EndStep();
    sequence.softmax_tokens = sequence.cache.resident_tokens();
  }
  // By layer, token and KV head.
  using Maw = std::map<std::tuple<uint32_t, uint64_t, uint32_t>, float>;
  Maw MawOf(TokenRange block) {
    Maw maw;
    uint64_t token = block.begin;
    for (const SlotRange slots : sequence.cache.SlotsOf(block)) {
      for (uint32_t slot = slots.begin; slot < slots.end; ++slot, ++token) {
        std::vector<float> of_slot(kNumLayers * 2);
        dynamic_cast<MawReader*>(sequence.facet)->ReadMaw({slot, slot + 1}, of_slot);
        for (uint32_t i = 0; i < of_slot.size(); ++i) maw[{i / 2, token, i % 2}] = of_slot[i];
      }
    }
    return maw;
  }

  TinyDevice device{
      TinyModel{},
      {.max_batch = 1, .max_partial_slots = 1, .resident_pool_bytes = 1 << 20, .max_prefill_tokens = 4096}};
  Sequence sequence;
};

// The MAW travels as it was when the block began to leave, whatever steps come before its frames go out.
TEST_F(SpillTest, ABlocksMawTravelsAsItWasWhenTheBlockBeganToLeave) {
  SteppedSequence stepped;
  Sequence& sequence = stepped.sequence;
  sequence.shards = {Shard(1, 0, 1), Shard(2, 1, 2)};
  EXPECT_EQ(BeginBlockSpill(sequence, {0, 1}).sections, nullptr) << "no step has looked at it yet";
  size_t delivered = 0;
  for (int block_idx = 0; block_idx < 5; ++block_idx) {  // the ring wraps, and blocks with it
    while (!sequence.cache.next_spill()) stepped.Step();
    const TokenRange block = *sequence.cache.next_spill();
    sequence.spill = BeginBlockSpill(sequence, block);
    const uint64_t softmax_tokens = sequence.softmax_tokens;
    SteppedSequence::Maw expected = stepped.MawOf(block);
    stepped.Step();
    while (!sequence.spill->all_sent) {
      PumpSpill(sequence, kLayers, &stepped.device, sender_.get(), 300);
      Deliver();
      for (; delivered < sink_.spills.size(); ++delivered) {
        const auto& spill = sink_.spills[delivered];
        EXPECT_FALSE(sender_->OnAck(node_, spill.header.layer, Ack(spill)).has_value());
        HgcaSpillSection section;
        ASSERT_TRUE(DecodeHgcaSpillSection(spill.policy, spill.body.num_tokens, 1, &section));
        EXPECT_EQ(section.resident_tokens, softmax_tokens);
        const auto head = static_cast<uint32_t>(spill.body.shard_id - 1);
        for (uint32_t i = 0; i < spill.body.num_tokens; ++i) {
          const auto key = std::tuple(uint32_t{spill.header.layer}, spill.body.token_begin + i, head);
          EXPECT_EQ(ReadAt<float>(section.maw, i * sizeof(float)), expected.at(key));
          expected.erase(key);
        }
      }
    }
    EXPECT_TRUE(expected.empty());
    while (sequence.cache.CanAppend()) stepped.Step();
    sequence.cache.Release();
    sequence.spill.reset();
  }
}

}  // namespace
}  // namespace tributary
