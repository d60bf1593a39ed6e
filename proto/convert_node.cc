#include "proto/convert_node.h"

#include <algorithm>

#include "base/clock.h"
#include "base/limits.h"
#include "base/outside_text.h"
#include "base/version.h"
#include "fmt/format.h"

namespace tributary {
namespace {

v1::NodeEndpoint EndpointOf(const NodeDescription& node) {
  v1::NodeEndpoint message;
  message.set_node_id(node.node_id);
  message.set_incarnation(node.incarnation);
  message.set_control_address(node.control_address);
  return message;
}

v1::NodeRole RoleToProto(NodeRole role) {
  return role == NodeRole::kGpuWorker ? v1::NODE_ROLE_GPU_WORKER : v1::NODE_ROLE_CPU_ATTENTION;
}

v1::NodeStatus MemberToProto(const MemberStatus& status, int64_t now_ns) {
  const NodeDescription& node = status.member.node;
  v1::NodeStatus message;
  *message.mutable_endpoint() = EndpointOf(node);
  message.set_role(RoleToProto(node.role));
  message.set_state(std::string(MemberStateName(status.member.state)));
  message.set_capacity_bytes(node.kv_capacity_bytes);
  message.set_free_bytes(status.available_bytes);
  message.set_shards(status.shards);
  message.set_sequences(status.sequences);
  message.set_heartbeat_age_s(SecondsFromNs(now_ns - status.member.last_heard_ns));
  message.set_metrics_address(node.metrics_address);
  return message;
}

v1::KeptSequence KeptToProto(const KeptStatus& kept, int64_t now_ns) {
  v1::KeptSequence message;
  message.set_request_id(kept.request_id);
  message.set_sequence_id(kept.sequence_id.value);
  message.set_worker_id(kept.worker_id);
  message.set_lease_left_s(SecondsFromNs(std::max<int64_t>(0, kept.kept_until_ns - now_ns)));
  message.set_context_tokens(kept.context_tokens);
  message.set_max_context_tokens(kept.reserved_context_tokens);
  message.set_resident_bytes(kept.resident_bytes);
  message.set_shard_bytes(kept.shard_bytes);
  return message;
}

// A folder may have any name, a message and a terminal may not: what they cannot have is escaped.
std::string ShownName(const std::string& name) {
  std::string shown = Printable(name);
  if (shown.size() > limits::kMaxModelNameBytes) shown = Printable(shown.substr(0, limits::kMaxModelNameBytes / 4));
  return shown;
}

}  // namespace

v1::ModelGeometry GeometryToProto(const ModelGeometry& geometry) {
  v1::ModelGeometry message;
  message.set_num_layers(geometry.num_layers);
  message.set_num_q_heads(geometry.attention.num_q_heads);
  message.set_num_kv_heads(geometry.attention.num_kv_heads);
  message.set_head_dim(geometry.attention.head_dim);
  message.set_vocab_size(geometry.vocab_size);
  message.set_model_name(ShownName(geometry.model_name));
  message.set_num_windowed_layers(geometry.num_windowed_layers);
  message.set_sliding_window_tokens(geometry.sliding_window_tokens);
  return message;
}

ModelGeometry GeometryFromProto(const v1::ModelGeometry& message) {
  return {{message.num_q_heads(), message.num_kv_heads(), message.head_dim()},
          message.num_layers(),
          message.vocab_size(),
          message.model_name(),
          message.num_windowed_layers(),
          message.sliding_window_tokens()};
}

v1::NodeInfo NodeToProto(const NodeDescription& node) {
  v1::NodeInfo message;
  *message.mutable_endpoint() = EndpointOf(node);
  message.set_role(RoleToProto(node.role));
  message.set_protocol_version(node.protocol_version);
  message.set_version(node.version);
  message.set_kv_capacity_bytes(node.kv_capacity_bytes);
  message.set_extent_bytes(node.extent_bytes);
  message.set_metrics_address(node.metrics_address);
  if (node.role != NodeRole::kGpuWorker) return message;
  *message.mutable_geometry() = GeometryToProto(node.geometry);
  message.set_max_context_tokens(node.max_context_tokens);
  message.set_max_batch(node.max_batch);
  message.set_max_prompt_tokens(node.max_prompt_tokens);
  message.set_max_token_stripes(node.max_token_stripes);
  return message;
}

absl::StatusOr<NodeDescription> NodeFromProto(const v1::NodeInfo& message) {
  NodeDescription node;
  node.node_id = message.endpoint().node_id();
  node.incarnation = message.endpoint().incarnation();
  node.control_address = message.endpoint().control_address();
  switch (message.role()) {
    case v1::NODE_ROLE_GPU_WORKER:
      node.role = NodeRole::kGpuWorker;
      break;
    case v1::NODE_ROLE_CPU_ATTENTION:
      node.role = NodeRole::kCpuAttention;
      break;
    default:
      return absl::InvalidArgumentError(
          fmt::format("node '{}' states role {}; roles are GPU worker (1) and CPU attention (2)", node.node_id,
                      static_cast<int>(message.role())));
  }
  node.metrics_address = message.metrics_address();
  node.version = message.version();
  node.protocol_version = message.protocol_version();
  node.kv_capacity_bytes = message.kv_capacity_bytes();
  node.extent_bytes = message.extent_bytes();
  node.geometry = GeometryFromProto(message.geometry());
  node.max_context_tokens = message.max_context_tokens();
  node.max_batch = message.max_batch();
  node.max_prompt_tokens = message.max_prompt_tokens();
  node.max_token_stripes = message.max_token_stripes();
  return node;
}

v1::HeartbeatRequest HeartbeatToProto(const NodeHeartbeat& heartbeat) {
  v1::HeartbeatRequest message;
  message.set_node_id(heartbeat.node_id);
  message.set_incarnation(heartbeat.incarnation);
  message.set_kv_free_bytes(heartbeat.free_bytes);
  message.set_draining(heartbeat.draining);
  message.set_leaving(heartbeat.leaving);
  for (const ReportedShard& shard : heartbeat.shards) {
    v1::ShardUsage& usage = *message.add_shards();
    usage.set_shard_id(shard.shard_id.value);
    usage.set_sequence_id(shard.sequence_id.value);
    usage.set_stored_tokens(shard.stored_tokens);
    usage.set_reserved_bytes(shard.reserved_bytes);
  }
  return message;
}

NodeHeartbeat HeartbeatFromProto(const v1::HeartbeatRequest& message) {
  NodeHeartbeat heartbeat;
  heartbeat.node_id = message.node_id();
  heartbeat.incarnation = message.incarnation();
  heartbeat.free_bytes = message.kv_free_bytes();
  heartbeat.draining = message.draining();
  heartbeat.leaving = message.leaving();
  for (const v1::ShardUsage& shard : message.shards()) {
    heartbeat.shards.push_back(
        {ShardId(shard.shard_id()), SequenceId(shard.sequence_id()), shard.reserved_bytes(), shard.stored_tokens()});
  }
  return heartbeat;
}

v1::StatusResponse StatusToProto(const ClusterStatus& status, int64_t now_ns) {
  v1::StatusResponse message;
  message.set_version(std::string(VersionText()));
  message.set_membership_epoch(status.membership_epoch);
  message.set_requests_running(status.running);
  message.set_requests_waiting(status.waiting);
  message.set_requests_finished(status.finished);
  message.set_requests_failed(status.failed);
  if (status.geometry) *message.mutable_geometry() = GeometryToProto(*status.geometry);
  for (const MemberStatus& member : status.members) *message.add_nodes() = MemberToProto(member, now_ns);
  for (const KeptStatus& kept : status.kept) *message.add_kept_sequences() = KeptToProto(kept, now_ns);
  return message;
}

}  // namespace tributary
