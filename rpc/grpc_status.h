// absl::Status <-> grpc::Status, whose codes are the same numbers, and the retry delay that goes
// with RESOURCE_EXHAUSTED.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace tributary {

grpc::Status ToGrpcStatus(const absl::Status& status);

// With `retry_delay_ns`, the details hold a google.rpc.Status with a google.rpc.RetryInfo, as gRPC
// clients expect.
grpc::Status ToGrpcStatus(const absl::Status& status, int64_t retry_delay_ns);

absl::Status FromGrpcStatus(const grpc::Status& status);

// The delay that the server asked for, if it did.
std::optional<int64_t> RetryDelayNs(const grpc::Status& status);

}  // namespace tributary
