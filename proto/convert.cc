#include "proto/convert.h"

#include "base/status.h"
#include "fmt/format.h"
#include "proto/convert_policy.h"
#include "wire/frame.h"

namespace tributary {

static_assert(static_cast<int>(DType::kUnset) == v1::DTYPE_UNSET);
static_assert(static_cast<int>(DType::kF32) == v1::DTYPE_F32);
static_assert(static_cast<int>(DType::kBf16) == v1::DTYPE_BF16);
static_assert(static_cast<int>(DType::kF16) == v1::DTYPE_F16);
static_assert(static_cast<int>(DType::kInt8) == v1::DTYPE_INT8);
static_assert(static_cast<int>(DType::kInt4) == v1::DTYPE_INT4);
static_assert(static_cast<int>(DType::kFp8E4m3) == v1::DTYPE_FP8_E4M3);

v1::DType DTypeToProto(DType dtype) { return static_cast<v1::DType>(dtype); }

absl::StatusOr<DType> DTypeFromProto(v1::DType dtype) {
  switch (dtype) {
    case v1::DTYPE_UNSET:
    case v1::DTYPE_F32:
    case v1::DTYPE_BF16:
    case v1::DTYPE_F16:
    case v1::DTYPE_INT8:
    case v1::DTYPE_INT4:
    case v1::DTYPE_FP8_E4M3:
      return static_cast<DType>(dtype);
    default:
      return absl::InvalidArgumentError(fmt::format(
          "unknown dtype {}; this build knows f32, bf16, f16, int8, int4 and fp8-e4m3", static_cast<int>(dtype)));
  }
}

v1::ShardSpec ShardSpecToProto(const ShardSpec& spec) {
  v1::ShardSpec message;
  message.set_shard_id(spec.shard_id.value);
  message.set_sequence_id(spec.sequence_id.value);
  message.set_epoch(spec.epoch.value);
  v1::ModelGeometry& geometry = *message.mutable_geometry();
  geometry.set_num_layers(spec.num_layers);
  geometry.set_num_q_heads(spec.model.num_q_heads);
  geometry.set_num_kv_heads(spec.model.num_kv_heads);
  geometry.set_head_dim(spec.model.head_dim);
  message.set_layer_begin(spec.layer_begin);
  message.set_layer_end(spec.layer_end);
  message.set_kv_head_begin(spec.kv_head_begin);
  message.set_kv_head_end(spec.kv_head_end);
  v1::TokenStripe& stripe = *message.mutable_stripe();
  stripe.set_origin(spec.stripe.origin);
  stripe.set_stripe_tokens(spec.stripe.stripe_tokens);
  stripe.set_num_stripes(spec.stripe.num_stripes);
  stripe.set_stripe_idx(spec.stripe.stripe_idx);
  message.set_capacity_tokens(spec.capacity_tokens);
  message.set_k_dtype(DTypeToProto(spec.k_dtype));
  message.set_v_dtype(DTypeToProto(spec.v_dtype));
  *message.mutable_policy() = PolicyToProto(CompleteRequest(spec.policy));
  return message;
}

absl::StatusOr<ShardSpec> ShardSpecFromProto(const v1::ShardSpec& message) {
  ShardSpec spec;
  spec.shard_id = ShardId(message.shard_id());
  spec.sequence_id = SequenceId(message.sequence_id());
  spec.epoch = Epoch(message.epoch());
  const v1::ModelGeometry& geometry = message.geometry();
  spec.model = {geometry.num_q_heads(), geometry.num_kv_heads(), geometry.head_dim()};
  spec.num_layers = geometry.num_layers();
  spec.layer_begin = message.layer_begin();
  spec.layer_end = message.layer_end();
  spec.kv_head_begin = message.kv_head_begin();
  spec.kv_head_end = message.kv_head_end();
  const v1::TokenStripe& stripe = message.stripe();
  spec.stripe = {stripe.origin(), stripe.stripe_tokens(), stripe.num_stripes(), stripe.stripe_idx()};
  spec.capacity_tokens = message.capacity_tokens();
  TRIBUTARY_ASSIGN_OR_RETURN(spec.k_dtype, DTypeFromProto(message.k_dtype()));
  TRIBUTARY_ASSIGN_OR_RETURN(spec.v_dtype, DTypeFromProto(message.v_dtype()));
  if (!IsKvDType(spec.k_dtype) || !IsKvDType(spec.v_dtype)) {
    return absl::InvalidArgumentError(fmt::format("shard {} states no dtype for K or V", spec.shard_id.value));
  }
  absl::StatusOr<PolicyParams> policy = CompletePolicyFromProto(
      message.policy(), {.num_layers = spec.num_layers, .num_kv_heads = spec.model.num_kv_heads});
  if (!policy.ok()) {
    return absl::InvalidArgumentError(
        fmt::format("shard {}: {}", spec.shard_id.value, std::string(policy.status().message())));
  }
  spec.policy = *std::move(policy);
  return spec;
}

v1::NodeEndpoint EndpointToProto(const NodeEndpoint& endpoint) {
  v1::NodeEndpoint message;
  message.set_node_id(endpoint.node_id);
  message.set_incarnation(endpoint.incarnation);
  message.set_control_address(endpoint.control_address);
  return message;
}

NodeEndpoint EndpointFromProto(const v1::NodeEndpoint& message) {
  return {message.node_id(), message.incarnation(), message.control_address()};
}

v1::WorkerIdentity WorkerIdentityToProto(const WorkerIdentity& worker) {
  v1::WorkerIdentity message;
  message.set_worker_id(worker.id);
  message.set_incarnation(worker.incarnation);
  return message;
}

absl::StatusOr<WorkerIdentity> WorkerIdentityFromProto(const v1::WorkerIdentity& message) {
  if (message.worker_id().empty()) {
    return absl::InvalidArgumentError("worker_id is empty; name the GPU worker that may use the shard");
  }
  return WorkerIdentity{message.worker_id(), message.incarnation()};
}

v1::ShardRoute ShardPlacementToProto(const ShardPlacement& placement) {
  v1::ShardRoute message;
  *message.mutable_shard() = ShardSpecToProto(placement.spec);
  for (const NodeEndpoint& holder : placement.holders) *message.add_holders() = EndpointToProto(holder);
  return message;
}

absl::StatusOr<ShardPlacement> ShardPlacementFromProto(const v1::ShardRoute& message) {
  ShardPlacement placement;
  TRIBUTARY_ASSIGN_OR_RETURN(placement.spec, ShardSpecFromProto(message.shard()));
  for (const v1::NodeEndpoint& holder : message.holders()) placement.holders.push_back(EndpointFromProto(holder));
  TRIBUTARY_RETURN_IF_ERROR(ValidateHolders(placement));
  return placement;
}

v1::TransportInfo TransportInfoToProto(const TransportInfo& info) {
  v1::TransportInfo message;
  message.set_name(info.name);
  message.set_release(info.release);
  message.set_transports(info.transports);
  message.set_address(info.address);
  message.set_frame_version(kFrameVersion);
  return message;
}

absl::StatusOr<TransportInfo> TransportInfoFromProto(const v1::TransportInfo& message) {
  if (message.frame_version() != kFrameVersion) {
    return absl::FailedPreconditionError(
        fmt::format("peer speaks frame version {}, this build speaks {}; run the same release on "
                    "both sides",
                    message.frame_version(), kFrameVersion));
  }
  if (message.address().empty()) {
    return absl::InvalidArgumentError(fmt::format("peer's transport '{}' states no worker address", message.name()));
  }
  return TransportInfo{message.name(), message.release(), message.transports(), message.address()};
}

}  // namespace tributary
