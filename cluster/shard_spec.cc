#include "cluster/shard_spec.h"

#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

absl::Status Invalid(const ShardSpec& spec, const std::string& what) {
  return absl::InvalidArgumentError(
      fmt::format("shard {} of sequence {}: {}", spec.shard_id.value, spec.sequence_id.value, what));
}

}  // namespace

KvTileLayout TileLayoutOf(const ShardSpec& spec) {
  return MakeKvTileLayout(static_cast<KvStorage>(spec.k_dtype), static_cast<KvStorage>(spec.v_dtype),
                          spec.model.head_dim);
}

uint64_t StoredBytes(const ShardSpec& spec, uint64_t tokens) {
  return KvTilesFor(tokens) * TileLayoutOf(spec).record_bytes * spec.num_layers_held() * spec.num_kv_heads_held();
}

absl::Status Validate(const ShardSpec& spec) {
  if (absl::Status status = Validate(spec.model); !status.ok()) {
    return Invalid(spec, std::string(status.message()));
  }
  if (absl::Status status = Validate(spec.stripe); !status.ok()) {
    return Invalid(spec, std::string(status.message()));
  }
  if (spec.num_layers == 0 || spec.num_layers > limits::kMaxLayers) {
    return Invalid(spec, fmt::format("num_layers is {}; it must be in [1, {}]", spec.num_layers, limits::kMaxLayers));
  }
  if (spec.layer_begin >= spec.layer_end || spec.layer_end > spec.num_layers) {
    return Invalid(spec, fmt::format("layers [{}, {}) are not a non-empty range of the model's {}", spec.layer_begin,
                                     spec.layer_end, spec.num_layers));
  }
  if (spec.kv_head_begin >= spec.kv_head_end || spec.kv_head_end > spec.model.num_kv_heads) {
    return Invalid(spec, fmt::format("KV heads [{}, {}) are not a non-empty range of the model's {}",
                                     spec.kv_head_begin, spec.kv_head_end, spec.model.num_kv_heads));
  }
  if (spec.capacity_tokens == 0 || spec.capacity_tokens > limits::kMaxContextTokens) {
    return Invalid(spec, fmt::format("capacity_tokens is {}; it must be in [1, {}]", spec.capacity_tokens,
                                     limits::kMaxContextTokens));
  }
  if (!IsKvDType(spec.k_dtype) || !IsKvDType(spec.v_dtype)) {
    return Invalid(spec, fmt::format("k_dtype {} and v_dtype {} must be f32, bf16, f16, int8, int4 or "
                                     "fp8-e4m3 (1 to 6)",
                                     static_cast<int>(spec.k_dtype), static_cast<int>(spec.v_dtype)));
  }
  const PolicyContext context{.num_layers = spec.num_layers, .num_kv_heads = spec.model.num_kv_heads};
  const absl::Status policy = ParseComplete(CompleteRequest(spec.policy), context).status();
  return policy.ok() ? policy : Invalid(spec, std::string(policy.message()));
}

}  // namespace tributary
