#include "policy/fluxion/query_section.h"

#include <cstring>
#include <vector>

#include "gtest/gtest.h"

namespace tributary {
namespace {

constexpr uint32_t kHeads = 3, kDim = 4;

TEST(QuerySectionTest, GivesBackWhatWasWritten) {
  const std::vector<float> lse_ln = {1, kEmptyLse, -3};
  std::vector<float> out(kHeads * kDim);
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(i);
  for (const bool has_out : {false, true}) {
    std::vector<std::byte> section(FluxionQuerySectionBytes(kHeads, kDim, has_out));
    EncodeFluxionQuerySection({has_out ? std::span<const float>(out) : std::span<const float>(), lse_ln}, section);
    FluxionQuerySection decoded;
    ASSERT_TRUE(DecodeFluxionQuerySection(section, kHeads, kDim, has_out, &decoded));
    ASSERT_EQ(decoded.lse_ln.size(), lse_ln.size() * sizeof(float));
    EXPECT_EQ(std::memcmp(decoded.lse_ln.data(), lse_ln.data(), decoded.lse_ln.size()), 0);
    ASSERT_EQ(decoded.out.size(), has_out ? out.size() * sizeof(float) : 0);
    if (has_out) {
      EXPECT_EQ(std::memcmp(decoded.out.data(), out.data(), decoded.out.size()), 0);
    }
  }
}

TEST(QuerySectionTest, RefusesEveryOtherSize) {
  const std::vector<std::byte> section(FluxionQuerySectionBytes(kHeads, kDim, true) + 8);
  for (const bool has_out : {false, true}) {
    for (size_t bytes = 0; bytes <= section.size(); ++bytes) {
      FluxionQuerySection decoded;
      const bool fits = bytes == 0 || bytes == FluxionQuerySectionBytes(kHeads, kDim, has_out);
      EXPECT_EQ(DecodeFluxionQuerySection(std::span(section).first(bytes), kHeads, kDim, has_out, &decoded), fits)
          << bytes;
      EXPECT_EQ(decoded.lse_ln.empty(), !fits || bytes == 0);
    }
  }
  FluxionQuerySection decoded;
  EXPECT_FALSE(DecodeFluxionQuerySection(section, UINT32_MAX, UINT32_MAX, true, &decoded));
}

TEST(QuerySectionTest, WhoMayHaveOne) {
  EXPECT_FALSE(FluxionQueryMayHaveSection(BudgetMode::kFixed, 1, false));
  EXPECT_FALSE(FluxionQueryMayHaveSection(BudgetMode::kCalibrated, 2, false));
  EXPECT_FALSE(FluxionQueryMayHaveSection(BudgetMode::kOracle, 1, true));
  EXPECT_TRUE(FluxionQueryMayHaveSection(BudgetMode::kCalibrated, 1, false));
  EXPECT_FALSE(FluxionQueryHasOut(BudgetMode::kCalibrated, false));
  EXPECT_TRUE(FluxionQueryHasOut(BudgetMode::kCalibrated, true));
  EXPECT_TRUE(FluxionQueryHasOut(BudgetMode::kOracle, false));
}

}  // namespace
}  // namespace tributary
