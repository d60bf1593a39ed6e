// A client's request.
#pragma once

#include "absl/status/statusor.h"
#include "cluster/generate_request.h"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

v1::Sampling SamplingToProto(const SamplingParams& sampling);
SamplingParams SamplingFromProto(const v1::Sampling& message);

// What is unset stays so: a request that states no placement or policy has no such message.
v1::GenerateRequest GenerateRequestToProto(const GenerateSpec& spec);
// INVALID_ARGUMENT: an unknown dtype or cut, or as of PolicyFromProto. Admission checks the rest.
absl::StatusOr<GenerateSpec> GenerateSpecFromProto(const v1::GenerateRequest& message);

}  // namespace tributary
