// Which attention policy a request asks for, with its parameters: as asked (PolicyRequest) and as checked and completed
// (PolicyParams). The CLI, admission and the worker all check with the functions here, so that they say the same.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "policy/hgca/maw.h"

namespace tributary {

// On the wire: never renumber.
enum class PolicyKind : uint8_t { kDense = 0, kHgca = 1 };
std::string_view PolicyName(PolicyKind kind);  // "dense", "hgca"

struct LayerHead {
  uint32_t layer = 0;
  uint32_t kv_head = 0;

  friend bool operator==(const LayerHead&, const LayerHead&) = default;
};

inline constexpr uint32_t kMaxKeepNext = 64;

// What was asked for; a field that is absent or empty was not mentioned. Names in messages are those of the fields.
struct PolicyRequest {
  std::string name;  // "" = dense
  // Of hgca.
  std::optional<double> alpha;
  std::optional<double> beta;
  std::optional<uint32_t> keep_min;
  std::optional<uint32_t> keep_next;
  std::optional<std::string> group_aggregate;  // "max" or "mean"
  std::optional<uint64_t> max_cache_tokens;
  // Of every sparse policy.
  std::optional<double> min_kept_mass;
  std::optional<double> quality_sample_rate;
  std::vector<uint32_t> dense_layers;
  std::vector<LayerHead> dense_heads;

  friend bool operator==(const PolicyRequest&, const PolicyRequest&) = default;
};

// What the parameters are checked against; 0 = not known yet, not checked.
struct PolicyContext {
  uint32_t block_tokens = 0;
  uint32_t num_layers = 0;
  uint32_t num_kv_heads = 0;
};

struct HgcaParams {
  double alpha = 0.5;      // weight of the newest step in the MAW, [0, 1]
  double beta = 1.0;       // threshold in units of the uniform weight 1/N; 0 selects everything
  uint32_t keep_min = 10;  // tokens kept of each block and KV head, whatever their MAW
  // Tokens kept behind each salient one (policy/hgca/maw.h, SpreadForward); 0: HGCA as published.
  uint32_t keep_next = 0;
  GroupAggregate group_aggregate = GroupAggregate::kMean;
  // Selected tokens of one KV head of one shard beyond which the context cache is distilled again; 0 = it grows until
  // the next append.
  uint64_t max_cache_tokens = 0;

  friend bool operator==(const HgcaParams&, const HgcaParams&) = default;
};

// What every sparse policy has.
struct SparseParams {
  double min_kept_mass = 0;                // a KV head that kept less at its last sample reads everything; 0 = never
  double quality_sample_rate = 1.0 / 256;  // share of the steps whose kept mass is measured
  std::vector<uint32_t> dense_layers;      // read everything, always
  std::vector<LayerHead> dense_heads;

  friend bool operator==(const SparseParams&, const SparseParams&) = default;
};

// A checked policy; no field is left to a default. Fields of other policies are as constructed.
struct PolicyParams {
  PolicyKind kind = PolicyKind::kDense;
  HgcaParams hgca;
  SparseParams sparse;

  friend bool operator==(const PolicyParams&, const PolicyParams&) = default;
};

// Checks and completes. INVALID_ARGUMENT, naming the field, its value and what is allowed: an unknown policy, a value
// out of its range or NaN, a parameter of another policy, parameters that contradict each other.
absl::StatusOr<PolicyParams> ResolvePolicy(const PolicyRequest& request, const PolicyContext& context);

// The request that asks for exactly this, every parameter of the policy stated: how a checked policy travels.
PolicyRequest CompleteRequest(const PolicyParams& params);
// The way back. INVALID_ARGUMENT as of ResolvePolicy, or for a parameter that is not stated: the sender decided, so
// nothing is left to a default of this build.
absl::StatusOr<PolicyParams> ParseComplete(const PolicyRequest& request, const PolicyContext& context);

// UNIMPLEMENTED unless this build can decode with the policy: parameters may be known before the services are ready.
absl::Status CheckServed(PolicyKind kind);

// Fields of `request` that are set, by name, and whether the policy has such a parameter: for callers that try several
// policies with one set of parameters.
std::vector<std::string_view> ParametersGiven(const PolicyRequest& request);
bool HasParameter(PolicyKind kind, std::string_view parameter);
// INVALID_ARGUMENT, listing what there is, for a name that is no policy.
absl::StatusOr<PolicyKind> ParsePolicyName(const std::string& name);

}  // namespace tributary
