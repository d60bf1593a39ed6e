#include "policy/fluxion/query_section.h"

#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace tributary {
namespace {

constexpr uint32_t kHeads = 3, kDim = 4;

std::vector<FluxionQueryForm> AllForms() {
  std::vector<FluxionQueryForm> forms;
  for (uint32_t bits = 0; bits < 8; ++bits) {
    forms.push_back({kHeads, kDim, (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0});
  }
  return forms;
}

struct Values {
  std::vector<float> lse_ln = {1, kEmptyLse, -3};
  std::vector<float> out = std::vector<float>(kHeads * kDim, 2.5f);
  std::vector<PredictedBudget> budgets = {{0.5f, 0.25f}, {}, {-1, 7}};
  std::vector<float> errors = {0, 0.25f, 1e9f};

  std::vector<std::byte> Encode(const FluxionQueryForm& form) const {
    std::vector<std::byte> section(FluxionQuerySectionBytes(form));
    FluxionQueryParts parts{.lse_ln = lse_ln};
    if (form.has_out) parts.out = out;
    if (form.has_budgets) parts.budgets = budgets;
    if (form.has_errors) {
      parts.errors = errors;
      parts.error_number = 77;
    }
    EncodeFluxionQuerySection(parts, section);
    return section;
  }
};

template <typename T>
void ExpectBytes(std::span<const std::byte> bytes, const std::vector<T>& expected, bool is_there) {
  ASSERT_EQ(bytes.size(), is_there ? expected.size() * sizeof(T) : 0);
  if (is_there) {
    EXPECT_EQ(std::memcmp(bytes.data(), expected.data(), bytes.size()), 0);
  }
}

TEST(QuerySectionTest, GivesBackWhatWasWritten) {
  const Values values;
  for (const FluxionQueryForm& form : AllForms()) {
    const std::vector<std::byte> section = values.Encode(form);
    FluxionQuerySection decoded;
    ASSERT_TRUE(DecodeFluxionQuerySection(section, form, &decoded));
    ExpectBytes(decoded.lse_ln, values.lse_ln, true);
    ExpectBytes(decoded.out, values.out, form.has_out);
    ExpectBytes(decoded.budgets, values.budgets, form.has_budgets);
    ExpectBytes(decoded.errors, values.errors, form.has_errors);
    EXPECT_EQ(decoded.error_number, form.has_errors ? 77u : 0u);
  }
}

TEST(QuerySectionTest, ErrorsMayBeMissingAndNothingElse) {
  const Values values;
  for (const FluxionQueryForm& written : AllForms()) {
    const std::vector<std::byte> section = values.Encode(written);
    for (const FluxionQueryForm& form : AllForms()) {
      const bool fits = written.has_out == form.has_out && written.has_budgets == form.has_budgets &&
                        (form.has_errors || !written.has_errors);
      FluxionQuerySection decoded;
      EXPECT_EQ(DecodeFluxionQuerySection(section, form, &decoded), fits);
    }
  }
  FluxionQuerySection decoded;
  EXPECT_TRUE(DecodeFluxionQuerySection({}, AllForms().back(), &decoded)) << "a query may say nothing";
  EXPECT_TRUE(decoded.lse_ln.empty());
}

TEST(QuerySectionTest, TruncatedAndTooLongSectionsAreRefused) {
  const Values values;
  for (const FluxionQueryForm& form : AllForms()) {
    std::vector<std::byte> section = values.Encode(form);
    const size_t whole = section.size();
    // Without its last part, the errors, a section is whole again.
    FluxionQueryForm shorter = form;
    shorter.has_errors = false;
    section.resize(whole + 16);
    for (size_t bytes = 1; bytes <= section.size(); ++bytes) {
      FluxionQuerySection decoded;
      const bool fits = bytes == whole || bytes == FluxionQuerySectionBytes(shorter);
      EXPECT_EQ(DecodeFluxionQuerySection(std::span(section).first(bytes), form, &decoded), fits) << bytes;
      EXPECT_EQ(decoded.lse_ln.empty(), !fits);
    }
  }
}

TEST(QuerySectionTest, PartsOutOfOrderTwiceOrOfOtherSizesAreRefused) {
  const Values values;
  const FluxionQueryForm form = AllForms().back();
  const std::vector<std::byte> section = values.Encode(form);
  const size_t lse_bytes = 8 + kHeads * 4, out_bytes = 8 + kHeads * kDim * 4;
  FluxionQuerySection decoded;
  std::vector<std::byte> swapped(section.begin() + lse_bytes, section.begin() + lse_bytes + out_bytes);
  swapped.insert(swapped.end(), section.begin(), section.begin() + lse_bytes);
  swapped.insert(swapped.end(), section.begin() + lse_bytes + out_bytes, section.end());
  EXPECT_FALSE(DecodeFluxionQuerySection(swapped, form, &decoded));
  std::vector<std::byte> twice(section.begin(), section.begin() + lse_bytes);
  twice.insert(twice.end(), section.begin(), section.end());
  EXPECT_FALSE(DecodeFluxionQuerySection(twice, form, &decoded));
  for (const size_t part : {size_t{0}, lse_bytes, lse_bytes + out_bytes}) {
    for (const uint32_t word : {uint32_t{0}, uint32_t{5}, UINT32_MAX}) {
      for (const size_t field : {size_t{0}, size_t{4}}) {
        std::vector<std::byte> changed = section;
        std::memcpy(changed.data() + part + field, &word, sizeof(word));
        EXPECT_FALSE(DecodeFluxionQuerySection(changed, form, &decoded)) << part << " " << field << " " << word;
      }
    }
  }
  std::vector<std::byte> unnumbered = section;
  std::memset(unnumbered.data() + unnumbered.size() - kHeads * 4 - 4, 0, 4);
  EXPECT_FALSE(DecodeFluxionQuerySection(unnumbered, form, &decoded)) << "measurements are counted from 1";
}

// What is accepted lies within the bytes; the sanitizers watch.
TEST(QuerySectionTest, AnyBytesAreRefusedOrWithinTheSection) {
  std::mt19937_64 random(11);
  const Values values;
  for (int n = 0; n < 20000; ++n) {
    const FluxionQueryForm written = AllForms()[random() % 8], form = AllForms()[random() % 8];
    std::vector<std::byte> section = values.Encode(written);
    for (uint64_t changes = random() % 4; changes > 0; --changes) {
      section[random() % section.size()] = static_cast<std::byte>(random() % 6);
    }
    section.resize(random() % 3 == 0 ? random() % (section.size() + 9) : section.size());
    FluxionQuerySection decoded;
    if (!DecodeFluxionQuerySection(section, form, &decoded)) continue;
    for (const auto part : {decoded.lse_ln, decoded.out, decoded.budgets, decoded.errors}) {
      if (part.empty()) continue;
      EXPECT_GE(part.data(), section.data());
      EXPECT_LE(part.data() + part.size(), section.data() + section.size());
    }
  }
  FluxionQuerySection decoded;
  const FluxionQueryForm huge{UINT32_MAX, UINT32_MAX, true, true, true};
  EXPECT_FALSE(DecodeFluxionQuerySection(values.Encode(AllForms().back()), huge, &decoded));
}

TEST(QuerySectionTest, WhoMayHaveOneAndWhatIsInIt) {
  EXPECT_FALSE(FluxionQueryMayHaveSection(BudgetMode::kFixed, 1, false));
  EXPECT_FALSE(FluxionQueryMayHaveSection(BudgetMode::kCalibrated, 2, false));
  EXPECT_FALSE(FluxionQueryMayHaveSection(BudgetMode::kOracle, 1, true));
  EXPECT_TRUE(FluxionQueryMayHaveSection(BudgetMode::kPredictor, 1, false));
  const auto form = [](BudgetMode mode, bool is_measured) {
    return FluxionQueryFormOf(mode, kHeads, kDim, is_measured, false);
  };
  EXPECT_FALSE(form(BudgetMode::kCalibrated, false).has_out);
  EXPECT_TRUE(form(BudgetMode::kCalibrated, true).has_out);
  EXPECT_TRUE(form(BudgetMode::kOracle, false).has_out);
  EXPECT_FALSE(form(BudgetMode::kOracle, false).has_budgets);
  EXPECT_TRUE(form(BudgetMode::kPredictor, false).has_budgets);
}

}  // namespace
}  // namespace tributary
