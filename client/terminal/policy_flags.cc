#include "client/terminal/policy_flags.h"

#include <charconv>

#include "CLI/CLI.hpp"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr const char* kPolicyGroup = "What is read of the KV (defaults: those of the policy)";

}  // namespace

absl::StatusOr<std::vector<LayerHead>> ParseLayerHeads(const std::vector<std::string>& names) {
  std::vector<LayerHead> heads;
  for (const std::string& name : names) {
    LayerHead head;
    const char* const end = name.data() + name.size();
    const auto [colon, layer_error] = std::from_chars(name.data(), end, head.layer);
    const bool has_colon = layer_error == std::errc() && colon != end && *colon == ':';
    const auto [stop, head_error] = std::from_chars(has_colon ? colon + 1 : end, end, head.kv_head);
    if (!has_colon || head_error != std::errc() || stop != end) {
      return absl::InvalidArgumentError(fmt::format("--dense-heads has '{}'; use LAYER:KV_HEAD, such as 2:0", name));
    }
    heads.push_back(head);
  }
  return heads;
}

void AddPolicyFlags(CLI::App& app, PolicyRequest& policy) {
  const auto add = [&app](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->group(kPolicyGroup);
  };
  add("--policy", policy.name, "Attention policy: dense (default, exact) or hgca");
  add("--beta", policy.beta, policy_help::kBeta);
  add("--alpha", policy.alpha, policy_help::kAlpha);
  add("--keep-min", policy.keep_min, policy_help::kKeepMin);
  add("--keep-next", policy.keep_next, policy_help::kKeepNext);
  add("--group-aggregate", policy.group_aggregate, policy_help::kGroupAggregate);
  add("--max-cache-tokens", policy.max_cache_tokens, policy_help::kMaxCacheTokens);
  add("--min-kept-mass", policy.min_kept_mass, policy_help::kMinKeptMass);
  add("--quality-sample-rate", policy.quality_sample_rate, policy_help::kQualitySampleRate);
  add("--dense-layers", policy.dense_layers, policy_help::kDenseLayers)->delimiter(',');
  app.add_option_function<std::vector<std::string>>(
         "--dense-heads",
         [&policy](const std::vector<std::string>& names) {
           absl::StatusOr<std::vector<LayerHead>> heads = ParseLayerHeads(names);
           if (!heads.ok()) throw CLI::ValidationError(std::string(heads.status().message()));
           policy.dense_heads = *std::move(heads);
         },
         policy_help::kDenseHeads)
      ->delimiter(',')
      ->group(kPolicyGroup);
}

}  // namespace tributary
