// Flags that several commands share.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/api/request_options.h"

namespace CLI {
class App;
}

namespace tributary {

inline constexpr const char* kPlacementGroup = "Where the KV lies";
inline constexpr const char* kClusterGroup = "Local cluster";

// --sink-tokens, --block-tokens, --kv-dtype, --shard-cut, --max-nodes.
void AddLayoutFlags(CLI::App& app, RequestOptions& request);
// --model and what else `cluster up` takes.
void AddClusterFlags(CLI::App& app, ClusterOptions& cluster, bool model_required);
void AddCoordinatorFlag(CLI::App& app, std::string& coordinator, bool required);

// Commands that start a cluster or use a running one check with this: INVALID_ARGUMENT unless exactly one is given.
absl::Status CheckModelOrCoordinator(const ClusterOptions& cluster, const std::string& coordinator);

}  // namespace tributary
