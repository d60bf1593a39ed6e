// The flags that choose an attention policy, for commands that make one request, and the words that every command has
// for them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "policy/policy_params.h"

namespace CLI {
class App;
}

namespace tributary {

// Help texts, for commands with flags of these names.
namespace policy_help {
inline constexpr const char* kAlpha = "hgca: weight of the newest step in the MAW, 0 to 1; default 0.5";
inline constexpr const char* kBeta = "hgca: threshold, times the uniform weight; 0 reads all; default 1";
inline constexpr const char* kKeepMin = "hgca: tokens kept of each block and KV head; default 10";
inline constexpr const char* kKeepNext =
    "hgca: tokens kept behind each salient one; default 0, but 8 is what finds codes again";
inline constexpr const char* kGroupAggregate = "hgca: salience of a KV head from its query heads: mean (default), max";
inline constexpr const char* kMaxCacheTokens =
    "hgca: selected tokens of a KV head beyond which they are distilled; 0 (default): never";
inline constexpr const char* kMinKeptMass =
    "Sparse policies: a head that keeps less of the softmax reads everything; default 0: none does";
inline constexpr const char* kQualitySampleRate =
    "Sparse policies: share of the steps whose kept mass is measured; default 1/256";
inline constexpr const char* kDenseLayers = "Sparse policies: these layers read everything";
inline constexpr const char* kDenseHeads = "Sparse policies: these KV heads (LAYER:KV_HEAD) read everything";
}  // namespace policy_help

// --policy, --alpha, ... into `policy`.
void AddPolicyFlags(CLI::App& app, PolicyRequest& policy);

// "2:0": INVALID_ARGUMENT with the word that is no LAYER:KV_HEAD.
absl::StatusOr<std::vector<LayerHead>> ParseLayerHeads(const std::vector<std::string>& names);

}  // namespace tributary
