// HGCA as a device knows it.
#pragma once

#include "policy/policy_params.h"

namespace tributary {

inline PolicyParams HgcaPolicyWith(const MawParams& maw) {
  PolicyParams params;
  params.kind = PolicyKind::kHgca;
  params.hgca.alpha = maw.alpha;
  params.hgca.group_aggregate = maw.group_aggregate;
  return params;
}

}  // namespace tributary
