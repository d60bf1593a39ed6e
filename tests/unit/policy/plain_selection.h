// The selection as its definition says, slowly: sort everything, count, cut, sort again.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

#include "policy/selection.h"
#include "tests/testutil/test_seed.h"

namespace tributary {

inline std::vector<uint32_t> PlainSelection(const SelectionRule& rule, const std::vector<float>& salience) {
  std::vector<std::tuple<bool, double, uint32_t>> ranked;  // NaN first, falling, then rising index
  uint64_t passing = 0;
  for (uint32_t i = 0; i < salience.size(); ++i) {
    const bool is_nan = std::isnan(salience[i]);
    ranked.emplace_back(!is_nan, is_nan ? 0 : -salience[i], i);
    passing += rule.threshold <= 0 || is_nan || salience[i] >= rule.threshold ? 1 : 0;
  }
  std::sort(ranked.begin(), ranked.end());
  uint64_t keep = std::max(passing, rule.keep_min);
  keep = std::min(keep, rule.keep_max);
  keep = std::min<uint64_t>(keep, salience.size());
  std::vector<uint32_t> kept;
  for (uint64_t rank = 0; rank < keep; ++rank) kept.push_back(std::get<2>(ranked[rank]));
  std::sort(kept.begin(), kept.end());
  return kept;
}

// Skewed as attention is, with ties, and now and then something that is no weight at all.
inline std::vector<float> RandomSalience(std::mt19937_64& random, size_t count) {
  constexpr float kOdd[] = {std::numeric_limits<float>::quiet_NaN(),
                            -std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(),
                            -0.0f,
                            -1.0f};
  std::vector<float> salience(count);
  std::normal_distribution<float> log_weight(-5.0f, 2.0f);
  const bool ties = random() % 3 == 0;
  const bool odd = random() % 3 == 0;
  for (float& value : salience) {
    value = std::exp(log_weight(random));
    if (ties) value = std::round(value * 64) / 64;
    if (odd && random() % 8 == 0) value = kOdd[random() % std::size(kOdd)];
  }
  return salience;
}

}  // namespace tributary
