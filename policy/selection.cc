#include "policy/selection.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace tributary {
namespace {

// NaN is above every number. (Left to the operators, it would break the ordering that nth_element relies on.)
bool Passes(float salience, float threshold) { return threshold <= 0 || salience >= threshold || std::isnan(salience); }

void KeepTop(uint64_t count, std::span<const float> salience, std::vector<uint32_t>* kept) {
  kept->resize(salience.size());
  std::iota(kept->begin(), kept->end(), 0u);
  if (count < kept->size()) {
    const auto last = kept->begin() + static_cast<std::ptrdiff_t>(count);
    std::nth_element(kept->begin(), last, kept->end(), [salience](uint32_t a, uint32_t b) {
      if (IsMoreSalient(salience[a], salience[b])) return true;
      return !IsMoreSalient(salience[b], salience[a]) && a < b;
    });
    kept->erase(last, kept->end());
    std::sort(kept->begin(), kept->end());
  }
}

}  // namespace

void SelectUnits(const SelectionRule& rule, std::span<const float> salience, std::vector<uint32_t>* kept) {
  TRIBUTARY_CHECK_LT(salience.size(), uint64_t{1} << 32);
  kept->clear();
  const auto num_units = static_cast<uint32_t>(salience.size());
  for (uint32_t i = 0; i < num_units; ++i) {
    if (Passes(salience[i], rule.threshold)) kept->push_back(i);
  }
  const uint64_t count =
      std::min({std::max<uint64_t>(kept->size(), rule.keep_min), rule.keep_max, static_cast<uint64_t>(num_units)});
  if (count != kept->size()) KeepTop(count, salience, kept);
}

}  // namespace tributary
