// The formulas of maw.h for one token, once: for the host's loops and for a device's kernel.
#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace tributary {

// How the weights of a group's query heads become one weight per token. On the wire: never renumber.
enum class GroupAggregate : uint8_t {
  kMax = 0,   // a token that one head needs is kept for all
  kMean = 1,  // a token must matter to the group as a whole; A still sums to 1
};

// What a device needs to know of a policy to average the attention weights of resident tokens.
struct MawParams {
  float alpha = 0;  // weight of the newest step, [0, 1]
  GroupAggregate group_aggregate = GroupAggregate::kMean;

  friend bool operator==(const MawParams&, const MawParams&) = default;
};

// Device memory that a MAW takes for each resident slot: the averages, and one layer's scores.
constexpr uint64_t MawBytesPerToken(uint32_t num_layers, uint32_t num_kv_heads, uint32_t num_q_heads) {
  return (uint64_t{num_layers} * num_kv_heads + num_q_heads) * sizeof(float);
}

// `aggregate` of the heads before, and one head more. NaN of any head shows.
TRIBUTARY_HOST_DEVICE inline float AddGroupHead(GroupAggregate how, float aggregate, float weight) {
  const bool has_nan = aggregate != aggregate || weight != weight;
  if (how == GroupAggregate::kMean || has_nan) return aggregate + weight;
  return aggregate > weight ? aggregate : weight;
}

// Is called after the last head.
TRIBUTARY_HOST_DEVICE inline float FinishGroup(GroupAggregate how, float aggregate, uint32_t group_size) {
  return how == GroupAggregate::kMax ? aggregate : aggregate * (1.0f / static_cast<float>(group_size));
}

// The average after a step in which the token had the weight `recent`. What is not finite leaves no trace: NaN `before`
// is a token that has none yet.
TRIBUTARY_HOST_DEVICE inline float NextMaw(float alpha, float recent, float before) {
  if (!(recent - recent == 0.0f)) return before;  // not finite
  if (!(before - before == 0.0f)) return recent;
  return alpha * recent + (1.0f - alpha) * before;
}

}  // namespace tributary
