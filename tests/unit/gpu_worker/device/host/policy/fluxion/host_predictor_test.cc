// The host device's predictor over a real model: after a prefill whose middle leaves, over steps, and after a block has
// left, its budgets are those of features that are worked out from all tokens in f64.
#include <cmath>
#include <cstring>
#include <vector>

#include "gpu_worker/device/host/host_device.h"
#include "gpu_worker/device/policy/fluxion/predictor_file.h"
#include "gtest/gtest.h"
#include "model/model_identity.h"
#include "policy/fluxion/head_features.h"
#include "policy/fluxion/query_section.h"
#include "tests/testutil/random_predictor.h"

namespace tributary {
namespace {

constexpr AttentionShape kShape{4, 2, 16};
constexpr uint32_t kLayers = 2, kSinks = 4, kPrompt = 200, kFirstRemoteEnd = 132, kLater = 16;

class HostPredictorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteRandomModel(dir_.path(), {});
    const auto weights = *LoadModelWeights(dir_.path());
    model_ = {dir_.path(), ModelIdentity(*weights)};
    RandomPredictor file{.model = model_.identity};
    file.Make();
    file.Write(dir_.path());
    predictor_.emplace(*LoadBudgetPredictor(&model_, kShape, kLayers));
    device_ = *MakeHostDevice(
        weights,
        {.max_batch = 1, .max_partial_slots = 1, .resident_pool_bytes = 8 << 20, .max_prefill_tokens = kPrompt}, 2);
    const PolicyParams params =
        *ResolvePolicy({.name = "fluxion", .parameters = {{"budget_mode", "predictor"}}}, {.num_layers = kLayers});
    id_ = *device_->ReserveResident(
        {.capacity_tokens = 100, .kv_dtype = DType::kF32, .policy = &params, .max_context_tokens = 400});
  }

  void Prefill() {
    std::vector<uint32_t> prompt;
    for (uint32_t i = 0; i < kPrompt; ++i) prompt.push_back(i * i % 61);
    const auto prefill = device_->BeginPrefill(prompt, DType::kF32).value();
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      prefill->Project(layer, 0, kPrompt);
      k_[layer].resize(kPrompt * kRowFloats);
      v_[layer].resize(kPrompt * kRowFloats);
      prefill->Read(0, kPrompt, {0, 2}, std::as_writable_bytes(std::span(k_[layer])),
                    std::as_writable_bytes(std::span(v_[layer])));
      EXPECT_EQ(prefill->Leave(layer, id_, {kSinks, kFirstRemoteEnd}), nullptr);
      prefill->Keep(layer, id_, 0, {0, kSinks});
      prefill->Keep(layer, id_, kFirstRemoteEnd, {kSinks, kSinks + kPrompt - kFirstRemoteEnd});
      prefill->Attend(layer, 0, kPrompt);
    }
    prefill->End();
  }

  // A step at `pos`, and what its sections should say.
  void StepAndCompare(uint32_t pos, uint32_t remote_end) {
    const uint32_t slot = kSinks + pos - kFirstRemoteEnd, first_slot = kSinks + remote_end - kFirstRemoteEnd;
    const DecodeRow row{.token = pos % 61,
                        .pos = pos,
                        .resident = id_,
                        .append_slot = slot,
                        .attend = {SlotRange{0, kSinks}, SlotRange{first_slot, slot + 1}}};
    device_->BeginStep(std::span(&row, 1));
    std::vector<double> last_layer;
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      const std::span<const float> q = device_->AwaitQuery(layer);
      k_[layer].resize((pos + 1) * kRowFloats);
      v_[layer].resize(k_[layer].size());
      device_->ReadResident(id_, layer, {slot, slot + 1}, {0, 2},
                            std::as_writable_bytes(std::span(k_[layer]).last(kRowFloats)),
                            std::as_writable_bytes(std::span(v_[layer]).last(kRowFloats)));
      const std::vector<PredictedBudget> expected = Expected(layer, q, remote_end, &last_layer);
      for (const HeadRange heads : {HeadRange{1, 2}, HeadRange{0, 2}, HeadRange{0, 2}}) {  // asked again: the same
        const std::vector<PredictedBudget> budgets = Said(layer, heads, remote_end);
        for (size_t i = 0; i < budgets.size(); ++i) {
          const PredictedBudget& of_head = expected[heads.begin * 2 + i];
          EXPECT_NEAR(budgets[i].share, of_head.share, 2e-3 * double{of_head.share}) << "pos " << pos << " head " << i;
          EXPECT_NEAR(budgets[i].growth, of_head.growth, 1e-2 * double{of_head.growth});
        }
      }
      device_->AttendResident(layer);
      const uint32_t no_slots = 0;
      device_->FinishLayer(layer, std::span(&no_slots, 1));
    }
    device_->EndStep();
  }

  std::vector<PredictedBudget> Said(uint32_t layer, HeadRange heads, uint32_t remote_end) {
    PolicyFacet* const facet = device_->facet(id_);
    const FacetQuery query{.layer = layer, .kv_heads = heads, .visible = {kSinks, remote_end}};
    std::vector<std::byte> section(facet->QuerySectionBytes(query));
    facet->WriteQuerySection(query, section);
    FluxionQuerySection decoded;
    const uint32_t num_heads = (heads.end - heads.begin) * 2;
    EXPECT_TRUE(DecodeFluxionQuerySection(
        section, FluxionQueryFormOf(BudgetMode::kPredictor, num_heads, kShape.head_dim, false, false), &decoded));
    std::vector<PredictedBudget> budgets(num_heads);
    std::memcpy(budgets.data(), decoded.budgets.data(), decoded.budgets.size());
    return budgets;
  }

  // From all keys and values of the layer.
  std::vector<PredictedBudget> Expected(uint32_t layer, std::span<const float> q, uint32_t remote_end,
                                        std::vector<double>* last_layer) {
    const auto context = static_cast<uint32_t>(k_[layer].size() / kRowFloats);
    std::vector<std::vector<float>> memory;
    std::vector<RemoteKeys> remote;
    std::vector<KvHeadView> views;
    std::vector<ResidentHead> heads;
    memory.reserve(2);
    remote.reserve(2);
    for (uint32_t kv_head = 0; kv_head < 2; ++kv_head) {
      memory.emplace_back(RemoteKeys::Floats(context, kShape.head_dim));
      remote.emplace_back(memory.back(), kShape.head_dim);
      double sinks = 0, resident = 0;
      for (uint32_t token = 0; token < context; ++token) {
        const bool is_remote = token >= kSinks && token < remote_end;
        if (is_remote) remote.back().Add(Row(k_[layer], token, kv_head), Row(v_[layer], token, kv_head));
        if (!is_remote) resident += Norm(Row(v_[layer], token, kv_head));
        if (token < kSinks) sinks += Norm(Row(v_[layer], token, kv_head));
      }
      views.push_back({&remote.back(), resident / (context - (remote_end - kSinks)), sinks / kSinks});
    }
    for (uint32_t head = 0; head < 4; ++head) heads.push_back(Attend(layer, q, head, context, remote_end));
    const std::span<const FluxionFeatures> features = features_.Compute({.layer = layer,
                                                                         .num_layers = kLayers,
                                                                         .context_tokens = context,
                                                                         .remote_tokens = remote_end - kSinks,
                                                                         .group_size = 2,
                                                                         .head_dim = kShape.head_dim,
                                                                         .softmax_scale = kScale,
                                                                         .q = q,
                                                                         .heads = heads,
                                                                         .kv_heads = views,
                                                                         .head_rates = predictor_->head_rates(layer),
                                                                         .last_layer = *last_layer},
                                                                        past_[layer]);
    last_layer->assign(features_.group_masses().begin(), features_.group_masses().end());
    std::vector<PredictedBudget> budgets;
    for (const FluxionFeatures& of_head : features) budgets.push_back(predictor_->Predict(of_head));
    return budgets;
  }

  ResidentHead Attend(uint32_t layer, std::span<const float> q, uint32_t head, uint32_t context,
                      uint32_t remote_end) const {
    std::vector<float> weights;
    std::vector<double> scores, out(kShape.head_dim);
    double sum = 0;
    for (uint32_t token = 0; token < context; ++token) {
      double score = 0;
      const std::span<const float> k = Row(k_[layer], token, head / 2);
      for (uint32_t d = 0; d < kShape.head_dim; ++d) score += double{q[head * kShape.head_dim + d]} * double{k[d]};
      const bool is_remote = token >= kSinks && token < remote_end;
      scores.push_back(is_remote ? 0 : std::exp(score * double{kScale}));
      sum += scores.back();
    }
    for (uint32_t token = 0; token < context; ++token) {
      if (scores[token] == 0) continue;
      weights.push_back(static_cast<float>(scores[token] / sum));
      for (uint32_t d = 0; d < kShape.head_dim; ++d) {
        out[d] += scores[token] / sum * double{Row(v_[layer], token, head / 2)[d]};
      }
    }
    WeightSums sums(weights.size(), kSinks);
    sums.Add(weights);
    const std::vector<float> out_f32(out.begin(), out.end());
    return {static_cast<float>(std::log(sum)), Norm(out_f32), sums.entropy(), sums.sink_share(), sums.recent_share()};
  }

  static constexpr float kScale = 0.25f;
  static constexpr size_t kRowFloats = 2 * kShape.head_dim;
  static std::span<const float> Row(const std::vector<float>& rows, uint32_t token, uint32_t kv_head) {
    return std::span(rows).subspan(token * kRowFloats + kv_head * kShape.head_dim, kShape.head_dim);
  }
  static double Norm(std::span<const float> x) {
    double sum = 0;
    for (const float value : x) sum += double{value} * double{value};
    return std::sqrt(sum);
  }

  TempDir dir_;
  FacetModel model_;
  std::optional<BudgetPredictor> predictor_;
  std::unique_ptr<Device> device_;
  ResidentId id_;
  std::vector<float> k_[kLayers], v_[kLayers];  // [token][kv_head][head_dim]
  HeadFeatures features_;
  std::vector<HeadPast> past_[kLayers] = {std::vector<HeadPast>(4), std::vector<HeadPast>(4)};
};

TEST_F(HostPredictorTest, BudgetsAreThoseOfAllTokens) {
  EXPECT_EQ(device_->memory().policy_bytes.size(), 1u);
  Prefill();
  StepAndCompare(kPrompt, kFirstRemoteEnd);
  StepAndCompare(kPrompt + 1, kFirstRemoteEnd);
  EXPECT_EQ(device_->facet(id_)->OnLeaving(
                {.tokens = {kFirstRemoteEnd, kFirstRemoteEnd + kLater}, .slots = {SlotRange{kSinks, kSinks + kLater}}}),
            nullptr);
  StepAndCompare(kPrompt + 2, kFirstRemoteEnd + kLater);
}

}  // namespace
}  // namespace tributary
