// An attention policy's message <-> the house's own type. The message comes from outside.
#pragma once

#include "absl/status/statusor.h"
#include "policy/policy_params.h"
#include "tributary/v1/common.pb.h"

namespace tributary {

v1::AttentionPolicy PolicyToProto(const PolicyRequest& policy);

// Names and values as they are, of any policy; the caller resolves (policy/policy_params.h). INVALID_ARGUMENT: a
// parameter without a value, more parameters, longer words or longer lists than base/limits.h allows.
absl::StatusOr<PolicyRequest> PolicyFromProto(const v1::AttentionPolicy& message);

// What a peer has decided: INVALID_ARGUMENT as above, and as of ParseComplete.
absl::StatusOr<PolicyParams> CompletePolicyFromProto(const v1::AttentionPolicy& message, const PolicyContext& context);

}  // namespace tributary
