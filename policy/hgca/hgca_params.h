// HGCA's parameters, read from a checked policy's values. Names, ranges, defaults and help are rows in the .cc.
#pragma once

#include <cstdint>

#include "policy/hgca/maw_update.h"
#include "policy/policy_params.h"

namespace tributary {

struct HgcaParams {
  double alpha = 0;       // weight of the newest step in the MAW, [0, 1]
  double beta = 0;        // threshold in units of the uniform weight 1/N; 0 selects everything
  uint32_t keep_min = 0;  // tokens kept of each block and KV head, whatever their MAW
  // Tokens kept behind each salient one (policy/hgca/maw.h, SpreadForward); 0: HGCA as published.
  uint32_t keep_next = 0;
  GroupAggregate group_aggregate = GroupAggregate::kMean;
  // Selected tokens of one KV head of one shard beyond which the context cache is distilled again; 0 = it grows until
  // the next append.
  uint64_t max_cache_tokens = 0;

  MawParams maw() const { return {static_cast<float>(alpha), group_aggregate}; }

  friend bool operator==(const HgcaParams&, const HgcaParams&) = default;
};

// REQUIRES (checked): the policy is HGCA.
HgcaParams ReadHgcaParams(const PolicyParams& params);

}  // namespace tributary
