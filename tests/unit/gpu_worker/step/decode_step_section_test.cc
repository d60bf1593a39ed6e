// A facet's words in the frames of a step: behind q, and behind a partial's data. The node here answers everything with
// empty partials.
#include <functional>
#include <map>
#include <utility>

#include "base/log.h"
#include "gmock/gmock.h"
#include "gpu_worker/step/decode_step.h"
#include "gtest/gtest.h"
#include "tests/testutil/tiny_device.h"
#include "transport/inproc/inproc_network.h"
#include "wire/frame_builder.h"
#include "wire/frame_seal.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr SessionKeys kKeys{SipKey{1, 2}, std::nullopt};

// Runs the node whenever the worker looks at the time.
class PumpingClock final : public Clock {
 public:
  int64_t NowNs() const override {
    if (pump) pump();
    return now_ns_ += kNsPerUs;
  }
  std::function<void()> pump;

 private:
  mutable int64_t now_ns_ = 1;
};

class EmptyNode final : public FrameHandler {
 public:
  explicit EmptyNode(std::unique_ptr<DataPlane> data_plane) : plane(std::move(data_plane)) {}
  void OnFrame(std::span<const std::byte> header_bytes, std::span<const std::byte> payload) override {
    FrameHeader header;
    ASSERT_EQ(DecodeHeader(header_bytes, payload.size(), &header), FrameError::kOk);
    if (header.type != static_cast<uint8_t>(FrameType::kQuery)) return;
    QueryView query;
    ASSERT_EQ(QueryView::Decode(payload, &query), FrameError::kOk);
    std::vector<PartialEntry> entries;
    for (uint32_t i = 0; i < query.body().num_entries; ++i) {
      const QueryEntry entry = query.entry(i);
      const std::span<const std::byte> section = query.policy(entry);
      sections[{header.layer, entry.shard_id}].assign(reinterpret_cast<const char*>(section.data()), section.size());
      entries.push_back({.shard_id = entry.shard_id,
                         .num_q_heads = entry.num_q_heads,
                         .covered_tokens = entry.visible_end - entry.visible_begin,
                         .n_q = entry.n_q,
                         .num_kv_heads = entry.num_q_heads / 2,
                         .policy_bytes = static_cast<uint32_t>(answer.size())});
    }
    FrameBuffer frame = *plane->AllocateFrame(PartialPayloadBytes(entries, query.body().head_dim));
    PartialPayloadWriter writer(frame.payload(), query.body().num_entries, query.body().head_dim);
    for (const PartialEntry& entry : entries) {
      const PartialSpans spans = writer.Add(entry);
      std::fill(spans.lse_ln.begin(), spans.lse_ln.end(), kEmptyLse);
      std::memcpy(spans.policy.data(), answer.data(), answer.size());
    }
    frame.header() = {.type = static_cast<uint8_t>(FrameType::kPartial),
                      .session_id = header.session_id,
                      .frame_seq = ++frame_seq_,
                      .step_id = header.step_id,
                      .layer = header.layer,
                      .slot = header.slot};
    seal_.Seal(frame.header(), frame.payload());
    ASSERT_TRUE(plane->Send(peer, std::move(frame), SendClass::kEager).ok());
  }
  void OnPeerError(PeerId, const absl::Status&) override {}

  std::unique_ptr<DataPlane> plane;
  PeerId peer;
  std::map<std::pair<uint32_t, uint64_t>, std::string> sections;  // by layer and shard
  std::string answer;

 private:
  FrameSeal seal_{kKeys, FrameDirection::kToWorker};
  uint64_t frame_seq_ = 0;
};

class TalkingFacet final : public PolicyFacet {
 public:
  size_t QuerySectionBytes(const FacetQuery& query) const override {
    EXPECT_TRUE(!varies || query_is_there());
    return Words(query).size();
  }
  bool query_section_varies() const override { return varies; }
  size_t MaxQuerySectionBytes(const FacetQuery& query) const override { return 100; }
  void WriteQuerySection(const FacetQuery& query, std::span<std::byte> section) override {
    EXPECT_TRUE(query_is_there());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(section.data()) % 8, 0u);
    ASSERT_EQ(section.size(), Words(query).size());
    std::memcpy(section.data(), Words(query).data(), section.size());
  }
  size_t MaxPartialSectionBytes(const FacetQuery& query) const override { return max_answer_bytes; }
  absl::Status OnPartialSection(const FacetQuery& query, std::span<const std::byte> section) override {
    heard.push_back(Words(query) + ": " + std::string(reinterpret_cast<const char*>(section.data()), section.size()));
    return complaint;
  }
  static std::string Words(const FacetQuery& query) {
    return "layer " + std::to_string(query.layer) + " heads " + std::to_string(query.kv_heads.begin) + "-" +
           std::to_string(query.kv_heads.end) + " stripe " + std::to_string(query.stripe.stripe_idx) + " sees " +
           std::to_string(query.visible.begin) + "-" + std::to_string(query.visible.end);
  }

  bool varies = false;
  std::function<bool()> query_is_there;
  size_t max_answer_bytes = 20;
  absl::Status complaint;
  std::vector<std::string> heard;
};

class QueryTimeDevice final : public TinyDevice {
 public:
  using TinyDevice::TinyDevice;
  std::span<const float> AwaitQuery(uint32_t layer) override {
    query_is_there = true;
    return TinyDevice::AwaitQuery(layer);
  }
  void FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots) override {
    query_is_there = false;
    TinyDevice::FinishLayer(layer, num_slots);
  }
  bool query_is_there = false;
};

class DecodeStepSectionTest : public ::testing::Test, public NodeConnector, public NodeListener {
 protected:
  DecodeStepSectionTest() : network_(1, &clock_), worker_(network_.Create("worker")), node_(network_.Create("node")) {
    (void)InitLogging("test", "off");
    RemoteNodesOptions options;
    options.silence_timeout_ns = 1000 * kNsPerS;
    nodes_ = std::make_unique<RemoteNodes>(options, worker_.get(), this, &clock_, this, nullptr);
    const NodeIdx node = *nodes_->Acquire({"cpu-0", 1, "host:1"});
    step_ = std::make_unique<DecodeStep>(
        DecodeStepOptions{.shape = TinyModel().shape, .num_layers = 3, .softmax_scale = 1.0f}, &device_, worker_.get(),
        nodes_.get(), &clock_, nullptr, nullptr);
    clock_.pump = [this] { node_.plane->Poll(node_); };
    facet_.query_is_there = [this] { return device_.query_is_there; };
    // Two shards, one KV head each.
    for (uint32_t head = 0; head < 2; ++head) {
      ShardSpec spec;
      spec.shard_id = ShardId(10 + head);
      spec.model = TinyModel().shape;
      spec.num_layers = spec.layer_end = 3;
      spec.kv_head_begin = head;
      spec.kv_head_end = head + 1;
      spec.stripe = {.origin = 2, .stripe_tokens = 4, .num_stripes = 1, .stripe_idx = 0};
      shards_.push_back({spec, node, DType::kF32});
    }
    row_.device = {.token = 1, .pos = 6, .resident = *device_.ReserveResident({4, DType::kF32})};
    row_.device.attend[0] = {0, 1};
    row_.shards = shards_;
    row_.remote = {2, 8};
    row_.context_tokens = 7;
    row_.resident_tokens = 1;
    row_.facet = &facet_;
  }
  absl::StatusOr<NodeSession> Connect(const NodeEndpoint& node, const TransportInfo& local) override {
    node_.peer = *node_.plane->Connect(local.address);
    return NodeSession{node_.plane->info(), SessionId(5), kKeys, Epoch(1), node.node_id};
  }
  void OnPartial(NodeIdx node, const FrameHeader& header, const PartialFrameView& partial) override {
    step_->OnPartial(node, header, partial);
  }
  void OnAck(NodeIdx, const FrameHeader&, const AckBody&) override {}
  void OnRejected(NodeIdx, const ErrorBody&, std::string_view) override {}
  void OnDamaged(NodeIdx, const FrameHeader&) override {}
  void OnNodeFailed(NodeIdx, const absl::Status&) override {}

  void Run() { step_->Run({&row_, 1}, kNsPerS); }
  void ExpectSections() {
    EXPECT_EQ(node_.sections.size(), 6u);
    for (const auto& [key, section] : node_.sections) {
      const uint32_t head = static_cast<uint32_t>(key.second) - 10;
      EXPECT_EQ(section, "layer " + std::to_string(key.first) + " heads " + std::to_string(head) + "-" +
                             std::to_string(head + 1) + " stripe 0 sees 2-8");
    }
  }

  PumpingClock clock_;
  InprocNetwork network_;
  QueryTimeDevice device_{{}, {.max_batch = 1, .max_partial_slots = 1, .resident_pool_bytes = 1 << 20}};
  std::unique_ptr<DataPlane> worker_;
  EmptyNode node_;
  std::unique_ptr<RemoteNodes> nodes_;
  std::unique_ptr<DecodeStep> step_;
  TalkingFacet facet_;
  std::vector<BoundShard> shards_;
  StepRow row_;
};

TEST_F(DecodeStepSectionTest, SectionsGoBothWays) {
  node_.answer = "understood";
  Run();
  EXPECT_TRUE(row_.status.ok()) << row_.status;
  ExpectSections();
  ASSERT_EQ(facet_.heard.size(), 6u);
  EXPECT_THAT(facet_.heard[0], HasSubstr("layer 0 heads 0-1"));
  for (const std::string& heard : facet_.heard) EXPECT_THAT(heard, HasSubstr("sees 2-8: understood"));
}

TEST_F(DecodeStepSectionTest, ASizeThatDependsOnQIsAskedOnceQIsThere) {
  facet_.varies = true;
  Run();
  EXPECT_TRUE(row_.status.ok()) << row_.status;
  ExpectSections();
  EXPECT_EQ(facet_.heard.size(), 6u) << "an answer without a section is told, too";
}

TEST_F(DecodeStepSectionTest, AFacetThatExpectsNothingIsNotAsked) {
  facet_.max_answer_bytes = 0;
  Run();
  EXPECT_TRUE(row_.status.ok()) << row_.status;
  EXPECT_TRUE(facet_.heard.empty());
}

TEST_F(DecodeStepSectionTest, MoreThanTheFacetTakesFailsTheRow) {
  node_.answer = "twenty-one characters";
  Run();
  EXPECT_TRUE(absl::IsInternal(row_.status));
  EXPECT_THAT(std::string(row_.status.message()), HasSubstr("21 bytes for the policy, which takes 20"));
  EXPECT_TRUE(facet_.heard.empty());
}

TEST_F(DecodeStepSectionTest, WithoutAFacetNothingIsSentAndNothingTaken) {
  row_.facet = nullptr;
  Run();
  EXPECT_TRUE(row_.status.ok()) << row_.status;
  for (const auto& [key, section] : node_.sections) EXPECT_EQ(section, "");
  row_.status = absl::OkStatus();
  node_.answer = "x";
  Run();
  EXPECT_THAT(std::string(row_.status.message()), HasSubstr("1 bytes for the policy, which takes 0"));
}

TEST_F(DecodeStepSectionTest, WhatTheFacetRefusesFailsTheRow) {
  facet_.complaint = absl::InvalidArgumentError("no such block");
  Run();
  EXPECT_TRUE(absl::IsInvalidArgument(row_.status));
  EXPECT_THAT(std::string(row_.status.message()), HasSubstr("layer 0: shard 1"));
  EXPECT_THAT(std::string(row_.status.message()), HasSubstr("no such block"));
  EXPECT_EQ(facet_.heard.size(), 1u) << "it has failed";
}

}  // namespace
}  // namespace tributary
