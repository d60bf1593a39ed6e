// HGCA as a device knows it.
#pragma once

#include "policy/hgca/maw_update.h"
#include "policy/policy_params.h"

namespace tributary {

inline PolicyParams HgcaPolicyWith(const MawParams& maw) {
  PolicyParams params = *ResolvePolicy({.name = "hgca", .parameters = {}}, {});
  params.Set("alpha", maw.alpha);
  params.Set("group_aggregate", maw.group_aggregate == GroupAggregate::kMax ? "max" : "mean");
  return params;
}

}  // namespace tributary
