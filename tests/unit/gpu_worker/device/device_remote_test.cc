// A device when part of the context is elsewhere: ring slots, partial slots, what leaves the
// device.
#include <random>

#include "attention/reference.h"
#include "gmock/gmock.h"
#include "gpu_worker/device/pack_heads.h"
#include "gtest/gtest.h"
#include "tests/testutil/device_driver.h"
#include "tests/testutil/random_model.h"
#include "tests/testutil/test_devices.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr uint32_t kPromptTokens = 90;

class DeviceRemoteTest : public ::testing::TestWithParam<std::pair<DeviceKind, DType>> {
 protected:
  void SetUp() override {
    TRIBUTARY_SKIP_WITHOUT_DEVICE(GetParam().first);
    RandomModelOptions options;
    options.seed = seed_;
    TempDir dir;
    WriteRandomModel(dir.path(), options);
    weights_ = *LoadModelWeights(dir.path());
    const DeviceLimits limits{
        .max_batch = 2, .max_partial_slots = 3, .resident_pool_bytes = 4 << 20, .max_prefill_tokens = 200};
    device_ = *MakeTestDevice(GetParam().first, weights_, limits);
    std::mt19937_64 random(seed_);
    for (uint32_t i = 0; i < kPromptTokens; ++i) tokens_.push_back(static_cast<uint32_t>(random() % 61));
    const auto keep_kv = [&](Prefill& prefill, uint32_t) {
      k_.emplace_back(kPromptTokens * row_bytes());
      v_.emplace_back(kPromptTokens * row_bytes());
      Await(prefill.Read(0, kPromptTokens, all_heads(), k_.back(), v_.back()));
    };
    prompt_ = PrefillResident(*device_, 2, tokens_, dtype(), kPromptTokens + 1, 512, keep_kv);
    const DecodeRow row = ContiguousRow(prompt_.resident, kNext, kPromptTokens);
    expected_ = DecodeResident(*device_, 2, {&row, 1});
  }

  DType dtype() const { return GetParam().second; }
  void Await(CopyTicket ticket) {
    while (!device_->CopyDone(ticket)) {
    }
  }
  HeadRange all_heads() const { return {0, shape().num_kv_heads}; }
  const AttentionShape& shape() const { return weights_->config.attention; }
  size_t row_bytes() const { return size_t{shape().num_kv_heads} * shape().head_dim * DTypeBytes(dtype()); }

  // Attention of the step's q over prompt tokens [begin, end), into a partial slot of row 0.
  void FillSlot(uint32_t layer, std::span<const float> q, uint32_t slot, uint64_t begin, uint64_t end) {
    const ReferencePartial partial = ReferenceAttention({.shape = shape(),
                                                         .softmax_scale = weights_->config.softmax_scale,
                                                         .q = q.first(shape().num_q_heads * shape().head_dim),
                                                         .k = k_[layer],
                                                         .v = v_[layer],
                                                         .k_dtype = dtype(),
                                                         .v_dtype = dtype(),
                                                         .visible = TokenRange{begin, end}});
    PartialSlots& slots = device_->partial_slots();
    for (size_t i = 0; i < partial.lse_ln.size(); ++i) {
      slots.lse_ln[slot * partial.lse_ln.size() + i] = static_cast<float>(partial.lse_ln[i]);
    }
    for (size_t i = 0; i < partial.out.size(); ++i) {
      slots.out[slot * partial.out.size() + i] = static_cast<float>(partial.out[i]);
    }
  }

  // Copies prompt tokens from one region's slots to another's.
  void CopySlots(ResidentId to, uint64_t token_begin, SlotRange slots) {
    // Through a prefill: Keep is the only way in.
    const std::unique_ptr<Prefill> prefill = device_->BeginPrefill(tokens_, dtype()).value();
    for (uint32_t layer = 0; layer < 2; ++layer) {
      prefill->Project(layer, 0, kPromptTokens);
      prefill->Attend(layer, 0, kPromptTokens);
      prefill->Keep(layer, to, token_begin, slots);
    }
  }

  void ExpectSameLogits(std::span<const float> logits) {
    ASSERT_EQ(logits.size(), expected_.size());
    for (size_t i = 0; i < logits.size(); ++i) EXPECT_NEAR(logits[i], expected_[i], 1e-4);
  }

  static constexpr uint32_t kNext = 5;  // the token after the prompt

  const uint64_t seed_ = TestSeed();
  std::shared_ptr<const ModelWeights> weights_;
  std::unique_ptr<Device> device_;
  std::vector<uint32_t> tokens_;
  std::vector<std::vector<std::byte>> k_;  // by layer, the prompt's
  std::vector<std::vector<std::byte>> v_;
  Prefilled prompt_;
  std::vector<float> expected_;  // logits of the step after the prompt
};

// Sinks 0..8 in slots 0..8; a ring of 83 slots that wraps: tokens 8..50 at its end, 50..90 and the
// new one at its start.
TEST_P(DeviceRemoteTest, SlotsMayBeARing) {
  SCOPED_TRACE(seed_);
  const ResidentId ring = *device_->ReserveResident({8 + 83, dtype()});
  CopySlots(ring, 0, {0, 8});
  CopySlots(ring, 8, {49, 91});
  CopySlots(ring, 50, {8, 48});
  const DecodeRow row{.token = kNext,
                      .pos = kPromptTokens,
                      .resident = ring,
                      .append_slot = 48,
                      .attend = {SlotRange{0, 8}, SlotRange{49, 91}, SlotRange{8, 49}}};
  ExpectSameLogits(DecodeResident(*device_, 2, {&row, 1}));
}

TEST_P(DeviceRemoteTest, RemotePartialsMergeToTheSameLogits) {
  SCOPED_TRACE(seed_);
  for (const uint64_t remote_end : {uint64_t{16}, uint64_t{60}, uint64_t{kPromptTokens}}) {
    const uint64_t middle = remote_end / 3;
    const DecodeRow row{.token = kNext,
                        .pos = kPromptTokens,
                        .resident = prompt_.resident,
                        .append_slot = kPromptTokens,
                        .attend = {SlotRange{}, SlotRange{static_cast<uint32_t>(remote_end), kPromptTokens + 1}}};
    const std::vector<uint32_t> num_slots = {3};
    device_->BeginStep({&row, 1});
    for (uint32_t layer = 0; layer < 2; ++layer) {
      const std::span<const float> q = device_->AwaitQuery(layer);
      device_->AttendResident(layer);
      FillSlot(layer, q, 0, middle, remote_end);
      FillSlot(layer, q, 1, 0, 0);
      for (float& value : device_->partial_slots().out.subspan(64, 64)) value = NAN;  // an empty slot is not read
      FillSlot(layer, q, 2, 0, middle);
      device_->FinishLayer(layer, num_slots);
    }
    ExpectSameLogits(device_->EndStep());
  }
}

// Of each layer and of a row that wants it, against the reference; asking changes no logit. The other row does not.
TEST_P(DeviceRemoteTest, HandsOutTheResidentPartial) {
  SCOPED_TRACE(seed_);
  constexpr uint32_t kRemoteEnd = 37;
  const ResidentId other = *device_->ReserveResident({kPromptTokens + 1, dtype()});
  CopySlots(other, 0, {0, kPromptTokens});
  DecodeRow row{.token = kNext,
                .pos = kPromptTokens,
                .resident = prompt_.resident,
                .append_slot = kPromptTokens,
                .attend = {SlotRange{}, SlotRange{kRemoteEnd, kPromptTokens + 1}},
                .wants_resident_partial = true};
  const std::vector<DecodeRow> rows = {row, ContiguousRow(other, kNext, kPromptTokens)};
  const std::vector<uint32_t> num_slots = {1, 0};
  const size_t q_dim = shape().num_q_heads * shape().head_dim;
  std::vector<float> q;
  const auto expect_partial = [&](uint32_t layer) {
    const ReferencePartial expected = ReferenceAttention({.shape = shape(),
                                                          .softmax_scale = weights_->config.softmax_scale,
                                                          .q = q,
                                                          .k = k_[layer],
                                                          .v = v_[layer],
                                                          .k_dtype = dtype(),
                                                          .v_dtype = dtype(),
                                                          .visible = TokenRange{kRemoteEnd, kPromptTokens + 1}});
    const ConstAttentionPartialView actual = device_->resident_partial(0);
    ASSERT_EQ(actual.out.size(), expected.out.size());
    ASSERT_EQ(actual.lse_ln.size(), expected.lse_ln.size());
    for (size_t i = 0; i < q_dim; ++i) EXPECT_NEAR(actual.out[i], expected.out[i], 1e-4) << "layer " << layer;
    for (size_t i = 0; i < expected.lse_ln.size(); ++i) EXPECT_NEAR(actual.lse_ln[i], expected.lse_ln[i], 1e-4);
  };
  device_->BeginStep(rows);
  for (uint32_t layer = 0; layer < 2; ++layer) {
    const std::span<const float> all_q = device_->AwaitQuery(layer);
    if (layer > 0) expect_partial(layer - 1);
    q.assign(all_q.begin(), all_q.begin() + static_cast<ptrdiff_t>(q_dim));
    k_[layer].resize((kPromptTokens + 1) * row_bytes());
    v_[layer].resize((kPromptTokens + 1) * row_bytes());
    Await(device_->ReadResident(prompt_.resident, layer, {kPromptTokens, kPromptTokens + 1}, all_heads(),
                                std::span(k_[layer]).last(row_bytes()), std::span(v_[layer]).last(row_bytes())));
    device_->AttendResident(layer);
    FillSlot(layer, q, 0, 0, kRemoteEnd);
    device_->FinishLayer(layer, num_slots);
  }
  const std::span<const float> logits = device_->EndStep();
  expect_partial(1);
  ExpectSameLogits(logits.first(expected_.size()));
  for (size_t i = 0; i < expected_.size(); ++i) EXPECT_NEAR(logits[expected_.size() + i], expected_[i], 1e-4);
}

// Nothing resident at all is the neutral element of the merge.
TEST_P(DeviceRemoteTest, RowsWithoutResidentTokensTakeTheSlotsAlone) {
  SCOPED_TRACE(seed_);
  const DecodeRow row{.token = kNext, .pos = kPromptTokens, .resident = prompt_.resident, .append_slot = kPromptTokens};
  const std::vector<uint32_t> one_slot = {1};
  device_->BeginStep({&row, 1});
  for (uint32_t layer = 0; layer < 2; ++layer) {
    const std::span<const float> q = device_->AwaitQuery(layer);
    // The new token's K and V, read back from where AwaitQuery put them, go to the "remote" side.
    k_[layer].resize((kPromptTokens + 1) * row_bytes());
    v_[layer].resize((kPromptTokens + 1) * row_bytes());
    Await(device_->ReadResident(prompt_.resident, layer, {kPromptTokens, kPromptTokens + 1}, all_heads(),
                                std::span(k_[layer]).last(row_bytes()), std::span(v_[layer]).last(row_bytes())));
    device_->AttendResident(layer);
    FillSlot(layer, q, 0, 0, kPromptTokens + 1);
    device_->FinishLayer(layer, one_slot);
  }
  ExpectSameLogits(device_->EndStep());
}

TEST_P(DeviceRemoteTest, WhatIsReadBackIsWhatPrefillGave) {
  for (uint32_t layer = 0; layer < 2; ++layer) {
    std::vector<std::byte> k(20 * row_bytes());
    std::vector<std::byte> v(20 * row_bytes());
    Await(device_->ReadResident(prompt_.resident, layer, {30, 50}, all_heads(), k, v));
    const auto offset = static_cast<ptrdiff_t>(30 * row_bytes());
    EXPECT_TRUE(std::equal(k.begin(), k.end(), k_[layer].begin() + offset));
    EXPECT_TRUE(std::equal(v.begin(), v.end(), v_[layer].begin() + offset));
    std::vector<std::byte> k_head(k.size() / 2), v_head(k.size() / 2), packed(k.size() / 2);
    Await(device_->ReadResident(prompt_.resident, layer, {30, 50}, {1, 2}, k_head, v_head));
    PackHeads(k, 20, 2, row_bytes() / 2, {1, 2}, packed);
    EXPECT_EQ(k_head, packed);
    PackHeads(v, 20, 2, row_bytes() / 2, {1, 2}, packed);
    EXPECT_EQ(v_head, packed);
  }
}

std::string NameOf(const ::testing::TestParamInfo<std::pair<DeviceKind, DType>>& info) {
  return DeviceName(info.param.first) + "_" + std::string(DTypeName(info.param.second));
}

INSTANTIATE_TEST_SUITE_P(
    Devices, DeviceRemoteTest,
    ::testing::Values(std::pair(DeviceKind::kHost, DType::kF32), std::pair(DeviceKind::kHost, DType::kBf16),
                      std::pair(DeviceKind::kHost, DType::kF16), std::pair(DeviceKind::kCuda, DType::kF32),
                      std::pair(DeviceKind::kCuda, DType::kBf16), std::pair(DeviceKind::kCuda, DType::kF16)),
    NameOf);

}  // namespace
}  // namespace tributary
