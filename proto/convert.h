// Generated messages <-> the house's own types. Messages come from outside: every From... checks
// before it converts.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "cluster/node_endpoint.h"
#include "cluster/shard_placement.h"
#include "cluster/shard_spec.h"
#include "cluster/worker_identity.h"
#include "transport/data_plane.h"
#include "tributary/v1/common.pb.h"

namespace tributary {

v1::DType DTypeToProto(DType dtype);
// INVALID_ARGUMENT for a value that is no DType; DTYPE_UNSET becomes kUnset.
absl::StatusOr<DType> DTypeFromProto(v1::DType dtype);

// geometry.vocab_size and model_name stay unset: a shard does not know them.
v1::ShardSpec ShardSpecToProto(const ShardSpec& spec);
// INVALID_ARGUMENT: unset or unknown dtypes, a policy that is not complete or not valid. The caller checks the rest
// with Validate(spec).
absl::StatusOr<ShardSpec> ShardSpecFromProto(const v1::ShardSpec& message);

v1::NodeEndpoint EndpointToProto(const NodeEndpoint& endpoint);
NodeEndpoint EndpointFromProto(const v1::NodeEndpoint& message);

v1::WorkerIdentity WorkerIdentityToProto(const WorkerIdentity& worker);
// INVALID_ARGUMENT: an empty id.
absl::StatusOr<WorkerIdentity> WorkerIdentityFromProto(const v1::WorkerIdentity& message);

v1::ShardRoute ShardPlacementToProto(const ShardPlacement& placement);
// INVALID_ARGUMENT: as ShardSpecFromProto, and as ValidateHolders.
absl::StatusOr<ShardPlacement> ShardPlacementFromProto(const v1::ShardRoute& message);

// Adds this build's frame version.
v1::TransportInfo TransportInfoToProto(const TransportInfo& info);
// FAILED_PRECONDITION: another frame version; INVALID_ARGUMENT: no address. Both name the value.
absl::StatusOr<TransportInfo> TransportInfoFromProto(const v1::TransportInfo& message);

}  // namespace tributary
