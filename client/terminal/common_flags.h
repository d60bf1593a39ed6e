// Flags that several commands share.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/api/request_options.h"
#include "rpc/security/security_options.h"

namespace CLI {
class App;
}

namespace tributary {

inline constexpr const char* kPlacementGroup = "Where the KV lies";
inline constexpr const char* kClusterGroup = "Local cluster";
inline constexpr const char* kTlsGroup = "A coordinator that speaks TLS";

// --sink-tokens, --block-tokens, --kv-dtype, --shard-cut, --max-nodes.
void AddLayoutFlags(CLI::App& app, RequestOptions& request);
// --model and what else `cluster up` takes.
void AddClusterFlags(CLI::App& app, ClusterOptions& cluster, bool model_required);
// --coordinator, and by what to prove to it who asks: --tls-cert, --tls-key, --tls-ca.
void AddCoordinatorFlags(CLI::App& app, std::string& coordinator, TlsFiles& tls, bool required);

// Commands that start a cluster or use a running one check with this: INVALID_ARGUMENT unless exactly one is given.
absl::Status CheckModelOrCoordinator(const ClusterOptions& cluster, const std::string& coordinator);

}  // namespace tributary
