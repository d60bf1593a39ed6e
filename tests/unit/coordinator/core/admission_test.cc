#include "coordinator/core/admission.h"

#include <functional>
#include <limits>

#include "base/clock.h"
#include "base/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

ServingLimits Limits() { return {{{8, 2, 64}, 6, 256, "tiny"}, 4096, 2048}; }

PlacementOptions Defaults() {
  PlacementOptions defaults;
  defaults.window_tokens = 1024;
  defaults.sink_tokens = 64;
  defaults.block_tokens = 64;
  defaults.kv_dtype = DType::kBf16;
  return defaults;
}

GenerateSpec GoodSpec() {
  GenerateSpec spec;
  spec.prompt_tokens.assign(100, 1);
  spec.max_tokens = 10;
  spec.placement = ResolvePlacement({}, Defaults());
  return spec;
}

TEST(AdmissionTest, AcceptsAGoodRequest) {
  EXPECT_TRUE(CheckRequest(GoodSpec(), Limits()).ok());
  GenerateSpec spec = GoodSpec();
  spec.policy.name = "dense";
  spec.sampling = {0.7f, 40, 0.95f, 1};
  spec.forced_tokens.assign(10, 255);
  spec.top_logprobs = 256;  // the whole vocabulary
  EXPECT_TRUE(CheckRequest(spec, Limits()).ok());
}

TEST(AdmissionTest, TopLogprobsHaveALimitBesideTheVocabulary) {
  ServingLimits limits = Limits();
  limits.geometry.vocab_size = 128'256;
  GenerateSpec spec = GoodSpec();
  spec.top_logprobs = limits::kMaxTopLogprobs;
  EXPECT_TRUE(CheckRequest(spec, limits).ok());
  ++spec.top_logprobs;
  EXPECT_THAT(CheckRequest(spec, limits).ToString(), HasSubstr("at most 1024"));
}

TEST(AdmissionTest, RefusesEachBadFieldByNameAndValue) {
  struct Case {
    std::function<void(GenerateSpec&)> spoil;
    const char* words;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<Case> cases = {
      {[](auto& s) { s.prompt_tokens.clear(); }, "prompt is empty"},
      {[](auto& s) { s.max_tokens = 0; }, "max_tokens is 0"},
      {[](auto& s) { s.prompt_tokens.assign(2049, 1); }, "--max-prefill-tokens"},
      {[](auto& s) { s.max_tokens = 4096; }, "4195"},
      {[](auto& s) { s.prompt_tokens[7] = 256; }, "prompt_tokens[7] is 256"},
      {[](auto& s) { s.stop_tokens = {999}; }, "stop_tokens[0] is 999"},
      {[](auto& s) { s.forced_tokens.assign(11, 1); }, "11 forced_tokens"},
      {[](auto& s) { s.sampling.temperature = -1; }, "temperature is -1"},
      {[&](auto& s) { s.sampling.temperature = nan; }, "temperature is nan"},
      {[](auto& s) { s.sampling.top_p = 1.5f; }, "top_p is 1.5"},
      {[](auto& s) { s.sampling.top_k = 300; }, "top_k is 300"},
      {[](auto& s) { s.sampling.min_p = -1; }, "min_p is -1"},
      {[](auto& s) {
         s.sampling.logit_bias = {{256, 1}};
       },
       "logit_bias names token 256"},
      {[](auto& s) { s.top_logprobs = 257; }, "top_logprobs is 257; at most 256"},
      {[](auto& s) { s.placement.window_tokens = 32; }, "window_tokens (32)"},
      {[](auto& s) { s.placement.block_tokens = 5000; }, "block_tokens is 5000"},
      {[](auto& s) { s.placement.kv_dtype = static_cast<DType>(9); }, "kv_dtype 9"},
      {[](auto& s) { s.placement.kv_dtype = DType::kInt8; }, "kv_dtype 4"},
      {[](auto& s) { s.placement.remote_v_dtype = static_cast<DType>(9); }, "remote_v_dtype 9"},
      {[](auto& s) { s.policy.name = "frob"; }, "'frob'"},
      {[](auto& s) {
         s.lease = {-1, 0};
       },
       "keep.lease_ns is -1"},
      {[](auto& s) {
         s.lease = {86'401 * kNsPerS, 200};
       },
       "86400 s"},
      {[](auto& s) {
         s.lease = {kNsPerS, 109};
       },
       "109, but this request alone has 110"},
      {[](auto& s) {
         s.lease = {kNsPerS, 4098};
       },
       "4098; the model's context allows 4097"},
      {[](auto& s) {
         s.lease = {0, 200};
       },
       "200 without a lease"},
  };
  for (const Case& c : cases) {
    GenerateSpec spec = GoodSpec();
    c.spoil(spec);
    const absl::Status status = CheckRequest(spec, Limits());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.words;
    EXPECT_THAT(status.ToString(), HasSubstr(c.words));
  }
}

TEST(AdmissionTest, RefusesEachBadPolicyByNameAndValue) {
  struct Case {
    std::function<void(PolicyRequest&)> spoil;
    const char* words;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<Case> cases = {
      {[](auto& p) { p.name = "hcattention"; }, "policy 'hcattention' is not known"},
      {[](auto& p) { p.Set("alpha", 1.01); }, "alpha is 1.01"},
      {[](auto& p) { p.Set("alpha", -0.5); }, "alpha is -0.5"},
      {[&](auto& p) { p.Set("alpha", nan); }, "alpha is nan"},
      {[](auto& p) { p.Set("beta", -1.0); }, "beta is -1"},
      {[&](auto& p) { p.Set("beta", nan); }, "beta is nan"},
      {[](auto& p) { p.Set("keep_min", 100'000); }, "keep_min is 100000"},
      {[](auto& p) { p.Set("group_aggregate", "median"); }, "group_aggregate 'median'"},
      {[](auto& p) { p.Set("min_kept_mass", 1.5); }, "min_kept_mass is 1.5"},
      {[](auto& p) { p.Set("quality_sample_rate", -1.0); }, "quality_sample_rate is -1"},
      {[](auto& p) { p.Set("dense_layers", std::vector<uint32_t>{10'000}); }, "10000"},
      {[](auto& p) {
         p.Set("dense_heads", std::vector<LayerHead>{{0, 999}});
       },
       "999"},
      {[](auto& p) {
         p = {.name = "dense", .parameters = {{"beta", 1}}};
       },
       "beta is 1, but it is a parameter of policy hgca"},
  };
  for (const Case& c : cases) {
    GenerateSpec spec = GoodSpec();
    spec.policy.name = "hgca";
    ASSERT_TRUE(CheckRequest(spec, Limits()).ok());
    c.spoil(spec.policy);
    const absl::Status status = CheckRequest(spec, Limits());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.words;
    EXPECT_THAT(status.ToString(), HasSubstr(c.words));
  }
}

TEST(AdmissionTest, ResolvedPoliciesAreComplete) {
  GenerateSpec spec = GoodSpec();
  spec.policy = {.name = "hgca", .parameters = {{"beta", 2}}};
  const absl::StatusOr<PolicyParams> policy = ResolveRequestPolicy(spec, Limits());
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->name(), "hgca");
  EXPECT_EQ(policy->number("beta"), 2);
  EXPECT_EQ(policy->number("alpha"), 0.5);
}

TEST(AdmissionTest, HeadCutsNeedHeads) {
  ServingLimits limits = Limits();
  limits.geometry.attention.num_kv_heads = 1;
  GenerateSpec spec = GoodSpec();
  spec.placement.cut = Cut::kBoth;
  EXPECT_FALSE(CheckRequest(spec, limits).ok());
}

// Windowed layers keep their KV in the sequence's window, which is as large as they need.
TEST(AdmissionTest, AWindowIsAtLeastWhatTheModelsLayersSee) {
  ModelGeometry geometry = Limits().geometry;
  PlacementOptions placement;
  placement.window_tokens = 100;
  WidenWindow(geometry, placement);
  EXPECT_EQ(placement.window_tokens, 100u);
  geometry.num_windowed_layers = 2;
  geometry.sliding_window_tokens = 512;
  WidenWindow(geometry, placement);
  EXPECT_EQ(placement.window_tokens, 512u);
  placement.window_tokens = 600;
  WidenWindow(geometry, placement);
  EXPECT_EQ(placement.window_tokens, 600u);
}

TEST(AdmissionTest, ResolveTakesDefaultsOnlyWhereNothingIsSaid) {
  PlacementOptions requested;
  EXPECT_EQ(ResolvePlacement(requested, Defaults()).sink_tokens, 64u);
  requested.has_sink_tokens = true;
  EXPECT_EQ(ResolvePlacement(requested, Defaults()).sink_tokens, 0u);
  requested.window_tokens = 128;
  requested.kv_dtype = DType::kF32;
  const PlacementOptions resolved = ResolvePlacement(requested, Defaults());
  EXPECT_EQ(resolved.window_tokens, 128u);
  EXPECT_EQ(resolved.kv_dtype, DType::kF32);
  EXPECT_EQ(resolved.block_tokens, 64u);
}

// What the request says, else what the cluster says, else as on the worker.
TEST(AdmissionTest, StorageDTypesOfShards) {
  PlacementOptions requested;
  requested.kv_dtype = DType::kF32;
  PlacementOptions defaults = Defaults();
  EXPECT_EQ(ResolvePlacement(requested, defaults).remote_k_dtype, DType::kF32);
  defaults.remote_k_dtype = DType::kInt8;
  requested.remote_v_dtype = DType::kInt4;
  EXPECT_EQ(ResolvePlacement(requested, defaults).remote_k_dtype, DType::kInt8);
  EXPECT_EQ(ResolvePlacement(requested, defaults).remote_v_dtype, DType::kInt4);
}

KeptState Kept() {
  KeptState kept{.geometry = Limits().geometry, .placement = GoodSpec().placement};
  kept.context_tokens = 500;
  kept.reserved_context_tokens = 600;
  return kept;
}

TEST(AdmissionTest, AContinuationMayRepeatWhatTheSequenceHas) {
  GenerateSpec spec;
  spec.continue_request_id = spec.request_id = "chat";
  spec.prompt_tokens.assign(90, 1);
  spec.max_tokens = 10;  // all that is left
  EXPECT_TRUE(CheckContinuation(spec, Kept()).ok());
  spec.placement = Kept().placement;
  spec.policy.name = "dense";
  spec.lease = {kNsPerS, 600};
  EXPECT_TRUE(CheckContinuation(spec, Kept()).ok());
  spec.prompt_tokens.clear();
  EXPECT_TRUE(CheckContinuation(spec, Kept()).ok());
}

TEST(AdmissionTest, AContinuationThatDiffersIsRefusedWithBothValues) {
  using Spoil = std::function<void(GenerateSpec&)>;
  struct Case {
    Spoil spoil;
    absl::StatusCode code;
    const char* words;
  };
  constexpr auto kDiffers = absl::StatusCode::kFailedPrecondition;
  constexpr auto kWrong = absl::StatusCode::kInvalidArgument;
  const std::vector<Case> cases = {
      {[](auto& s) { s.max_tokens = 0; }, kWrong, "max_tokens is 0"},
      {[](auto& s) { s.max_tokens = 96; }, absl::StatusCode::kOutOfRange,
       "5 prompt tokens and max_tokens 96 are 101, but the kept sequence may grow by 100"},
      {[](auto& s) { s.prompt_tokens[0] = 256; }, kWrong, "prompt_tokens[0] is 256"},
      {[](auto& s) { s.forced_tokens.assign(11, 1); }, kWrong, "11 forced_tokens"},
      {[](auto& s) { s.sampling.top_p = 2; }, kWrong, "top_p is 2"},
      {[](auto& s) { s.lease.lease_ns = -5; }, kWrong, "keep.lease_ns is -5"},
      {[](auto& s) { s.request_id = "other"; }, kWrong, "'other' and continue_request_id 'chat'"},
      {[](auto& s) { s.placement.window_tokens = 512; }, kDiffers,
       "window_tokens is 512, but the kept sequence has 1024"},
      {[](auto& s) { s.placement.has_sink_tokens = true; }, kDiffers, "sink_tokens is 0, but the kept sequence has 64"},
      {[](auto& s) { s.placement.block_tokens = 32; }, kDiffers, "block_tokens is 32"},
      {[](auto& s) { s.placement.kv_dtype = DType::kF32; }, kDiffers,
       "kv_dtype is f32, but the kept sequence has bf16"},
      {[](auto& s) { s.placement.remote_v_dtype = DType::kInt8; }, kDiffers,
       "remote_v_dtype is int8, but the kept sequence has bf16"},
      {[](auto& s) { s.placement.cut = Cut::kHeads; }, kDiffers, "cut is heads, but the kept sequence has auto"},
      {[](auto& s) { s.placement.all_resident = true; }, kDiffers,
       "all_resident is true, but the kept sequence has false"},
      {[](auto& s) { s.placement.max_nodes = 2; }, kDiffers, "max_nodes is 2, but the kept sequence has 0"},
      {[](auto& s) { s.policy.name = "hgca"; }, kDiffers, "the policy is hgca, but the kept sequence has dense"},
      {[](auto& s) { s.policy.Set("beta", 2); }, kDiffers, "beta is 2, but the kept sequence has none"},
      {[](auto& s) { s.policy.quality = "high"; }, kDiffers, "the policy is delta, but the kept sequence has dense"},
      {[](auto& s) { s.policy.quality = "best"; }, kWrong, "quality 'best' is not known"},
      {[](auto& s) {
         s.lease = {kNsPerS, 601};
       },
       kDiffers, "keep.max_context_tokens is 601, but the kept sequence has 600"},
  };
  for (const Case& c : cases) {
    GenerateSpec spec;
    spec.continue_request_id = "chat";
    spec.prompt_tokens.assign(5, 1);
    spec.max_tokens = 10;
    c.spoil(spec);
    const absl::Status status = CheckContinuation(spec, Kept());
    EXPECT_EQ(status.code(), c.code) << status;
    EXPECT_THAT(status.ToString(), HasSubstr(c.words));
  }
}

TEST(AdmissionTest, AKeptSequenceMayBeNamedByItsQuality) {
  KeptState kept = Kept();
  kept.policy = *ResolvePolicy({.quality = "balanced"}, {});
  GenerateSpec spec;
  spec.continue_request_id = "chat";
  spec.max_tokens = 1;
  spec.policy.quality = "balanced";
  EXPECT_TRUE(CheckContinuation(spec, kept).ok()) << CheckContinuation(spec, kept);
  spec.policy.quality = "fast";
  EXPECT_EQ(CheckContinuation(spec, kept).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(AdmissionTest, ParametersOfAPolicyDoNotChange) {
  KeptState kept = Kept();
  kept.policy = *ResolvePolicy(
      {.name = "hgca", .parameters = {{"beta", 0.5}, {"dense_layers", std::vector<uint32_t>{0, 3}}}}, {});
  GenerateSpec spec;
  spec.continue_request_id = "chat";
  spec.max_tokens = 1;
  spec.policy.Set("beta", 0.5);
  spec.policy.Set("dense_layers", std::vector<uint32_t>{0, 3});
  EXPECT_TRUE(CheckContinuation(spec, kept).ok());
  spec.policy.Set("dense_layers", std::vector<uint32_t>{0});
  EXPECT_THAT(CheckContinuation(spec, kept).ToString(), HasSubstr("dense_layers is 0, but the kept sequence has 0,3"));
  spec.policy.Set("beta", 1);
  EXPECT_THAT(CheckContinuation(spec, kept).ToString(), HasSubstr("beta is 1, but the kept sequence has 0.5"));
}

}  // namespace
}  // namespace tributary
