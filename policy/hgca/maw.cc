#include "policy/hgca/maw.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "policy/selection.h"

namespace tributary {
void AggregateGroup(GroupAggregate how, std::span<const float> weights, uint32_t group_size, std::span<float> a) {
  TRIBUTARY_CHECK_GT(group_size, 0u);
  TRIBUTARY_CHECK_EQ(weights.size(), a.size() * group_size);
  const size_t num_tokens = a.size();
  std::copy_n(weights.begin(), num_tokens, a.begin());
  for (uint32_t head = 1; head < group_size; ++head) {
    const std::span<const float> row = weights.subspan(head * num_tokens, num_tokens);
    for (size_t t = 0; t < num_tokens; ++t) a[t] = AddGroupHead(how, a[t], row[t]);
  }
  for (float& value : a) value = FinishGroup(how, value, group_size);
}

void UpdateMaw(float alpha, std::span<const float> a, size_t num_known, std::span<float> maw) {
  TRIBUTARY_CHECK_EQ(a.size(), maw.size());
  TRIBUTARY_CHECK_LE(num_known, maw.size());
  for (size_t t = 0; t < num_known; ++t) maw[t] = NextMaw(alpha, a[t], maw[t]);
  std::copy(a.begin() + static_cast<std::ptrdiff_t>(num_known), a.end(),
            maw.begin() + static_cast<std::ptrdiff_t>(num_known));
}

void AddQueryWeights(std::span<const float> a, std::span<float> sum) {
  TRIBUTARY_CHECK_EQ(a.size(), sum.size());
  for (size_t t = 0; t < a.size(); ++t) sum[t] += a[t];
}

void FinishQueryMean(uint64_t num_queries, std::span<float> sum) {
  TRIBUTARY_CHECK_GT(num_queries, 0u);
  const float scale = 1.0f / static_cast<float>(num_queries);
  for (float& value : sum) value *= scale;
}

void UpdateCachedSalience(float alpha, std::span<const float> weights, std::span<float> salience) {
  TRIBUTARY_CHECK_EQ(weights.size(), salience.size());
  const auto num_cached = static_cast<float>(weights.size());
  for (size_t t = 0; t < weights.size(); ++t) {
    salience[t] = NextMaw(alpha, weights[t] * num_cached, salience[t]);
  }
}

void SpreadForward(uint32_t keep_next, std::span<const float> salience, size_t num_before, std::span<float> spread) {
  TRIBUTARY_CHECK_LE(num_before, salience.size());
  TRIBUTARY_CHECK_EQ(spread.size(), salience.size() - num_before);
  for (size_t t = num_before; t < salience.size(); ++t) {
    float most = salience[t];
    for (size_t back = 1; back <= keep_next && back <= t; ++back) {
      if (IsMoreSalient(salience[t - back], most)) most = salience[t - back];
    }
    spread[t - num_before] = most;
  }
}

}  // namespace tributary
