// What nodes say about themselves, and what the coordinator says about all of them.
#pragma once

#include "absl/status/statusor.h"
#include "cluster/cluster_status.h"
#include "cluster/cluster_types.h"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

v1::ModelGeometry GeometryToProto(const ModelGeometry& geometry);
ModelGeometry GeometryFromProto(const v1::ModelGeometry& message);

v1::NodeInfo NodeToProto(const NodeDescription& node);
// INVALID_ARGUMENT: an unknown role. The membership checks the rest.
absl::StatusOr<NodeDescription> NodeFromProto(const v1::NodeInfo& message);

v1::HeartbeatRequest HeartbeatToProto(const NodeHeartbeat& heartbeat);
NodeHeartbeat HeartbeatFromProto(const v1::HeartbeatRequest& message);

// `now_ns` is of the clock that the status' times are of: the message has ages. The version is this build's.
v1::StatusResponse StatusToProto(const ClusterStatus& status, int64_t now_ns);

}  // namespace tributary
