// Fluxion's facet on the host device: what it says with a query is what the resident attention gave.
#include <cstring>
#include <vector>

#include "gpu_worker/device/host/policy/host_facet.h"
#include "gtest/gtest.h"
#include "policy/fluxion/query_section.h"

namespace tributary {
namespace {

constexpr AttentionShape kShape{6, 2, 8};

std::unique_ptr<HostFacet> Facet(const char* mode) {
  const PolicyParams params = *ResolvePolicy({.name = "fluxion", .parameters = {{"budget_mode", mode}}}, {});
  const HostSeat seat = FluxionHostSeat();
  return *seat.make({.shape = kShape, .num_layers = 1, .policy = &params}, {});
}

FacetQuery QueryOf(uint32_t row, bool is_measured, HeadRange heads, uint32_t num_rows = 1) {
  return {.row = row, .num_rows = num_rows, .is_measured = is_measured, .kv_heads = heads};
}

TEST(HostFluxionTest, FixedSaysNothing) { EXPECT_EQ(Facet("fixed"), nullptr); }

TEST(HostFluxionTest, SaysWhatTheResidentAttentionGave) {
  const auto facet = Facet("calibrated");
  EXPECT_TRUE(facet->query_follows_attention());
  const DecodeRow decode;
  std::vector<float> q(48), out(24), lse_ln(3);
  for (const uint32_t row : {0u, 3u}) facet->OnQuery({decode, row, 0, q});
  for (const uint32_t row : {3u, 0u}) {
    for (const uint32_t head : {1u, 0u}) {
      for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(row * 1000 + head * 100 + i);
      for (size_t i = 0; i < lse_ln.size(); ++i) lse_ln[i] = -static_cast<float>(row * 1000 + head * 100 + i);
      facet->OnAttended({.row = decode, .row_idx = row, .kv_head = head, .out = out, .lse_ln = lse_ln});
    }
  }
  for (const bool is_measured : {false, true}) {
    for (const HeadRange heads : {HeadRange{0, 2}, HeadRange{1, 2}}) {
      const FacetQuery query = QueryOf(3, is_measured, heads);
      std::vector<std::byte> section(facet->QuerySectionBytes(query));
      facet->WriteQuerySection(query, section);
      FluxionQuerySection decoded;
      const uint32_t num_heads = 3 * (heads.end - heads.begin);
      ASSERT_TRUE(DecodeFluxionQuerySection(
          section, FluxionQueryFormOf(BudgetMode::kCalibrated, num_heads, 8, is_measured, false), &decoded));
      std::vector<float> values(num_heads);
      std::memcpy(values.data(), decoded.lse_ln.data(), decoded.lse_ln.size());
      EXPECT_EQ(values[0], -(3000.0f + 100.0f * static_cast<float>(heads.begin)));
      EXPECT_EQ(values[num_heads - 1], -3102.0f);
      EXPECT_EQ(decoded.out.empty(), !is_measured);
      if (!is_measured) continue;
      float last = 0;
      std::memcpy(&last, &decoded.out.back() - 3, sizeof(last));
      EXPECT_EQ(last, 3123.0f);
    }
  }
}

TEST(HostFluxionTest, AppendedPromptsAndSeveralTokensHaveNoSection) {
  const auto facet = Facet("oracle");
  FacetQuery append = QueryOf(0, false, {0, 2});
  append.is_append = true;
  EXPECT_EQ(facet->QuerySectionBytes(append), 0u);
  EXPECT_EQ(facet->QuerySectionBytes(QueryOf(0, false, {0, 2}, 2)), 0u);
  EXPECT_EQ(facet->QuerySectionBytes(QueryOf(0, false, {0, 2})),
            FluxionQuerySectionBytes({.num_q_heads = 6, .head_dim = 8, .has_out = true}));
}

TEST(HostFluxionTest, SendsTheMergedErrorsOfTheLastMeasurementWithItsNumber) {
  const auto facet = Facet("calibrated");
  const DecodeRow decode;
  std::vector<float> q(48);
  facet->OnQuery({decode, 0, 0, q});
  const FacetQuery query = QueryOf(0, false, {1, 2});
  const size_t without = facet->QuerySectionBytes(query);
  for (uint32_t number = 1; number <= 2; ++number) {
    const std::vector<float> errors = {0, 1, 2, 3, 4, static_cast<float>(number)};
    facet->OnMeasured(0, errors);
    std::vector<std::byte> section(facet->QuerySectionBytes(query));
    EXPECT_GT(section.size(), without);
    facet->WriteQuerySection(query, section);
    FluxionQuerySection decoded;
    ASSERT_TRUE(DecodeFluxionQuerySection(section, {.num_q_heads = 3, .head_dim = 8, .has_errors = true}, &decoded));
    EXPECT_EQ(decoded.error_number, number);
    float last = 0;
    std::memcpy(&last, decoded.errors.data() + 8, sizeof(last));
    EXPECT_EQ(last, static_cast<float>(number));
  }
}

TEST(HostFluxionTest, PredictorWithoutAModelFolderSaysWhatToDo) {
  const PolicyParams params = *ResolvePolicy({.name = "fluxion", .parameters = {{"budget_mode", "predictor"}}}, {});
  const FacetSpec spec{.shape = kShape, .num_layers = 1, .policy = &params};
  const auto made = FluxionHostSeat().make(spec, {});
  EXPECT_EQ(made.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(made.status().message()).find("use budget_mode calibrated"), std::string::npos);
}

}  // namespace
}  // namespace tributary
