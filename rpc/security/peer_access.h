// Asks who makes a call before anything of it is looked at: each method of a service begins with Check(). Refusals are
// counted by method, and logged a few times a second at most.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "grpcpp/support/string_ref.h"
#include "rpc/security/cluster_secret.h"
#include "rpc/security/peer_role.h"

namespace grpc {
class AuthContext;
}

namespace tributary {

// By what a server knows its callers.
enum class PeerProof : uint8_t {
  kNothing,  // everybody may do everything
  kSecret,   // members have the cluster's secret, whoever has not is a client
  kTls,      // the certificate names the roles; with a secret, too, members need both
};

// Thread-safe.
class PeerAccess {
 public:
  struct Refusals {
    std::atomic<uint64_t> unauthenticated{0};
    std::atomic<uint64_t> permission_denied{0};
  };
  using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

  // `secret`: null for none.
  PeerAccess(PeerProof proof, const std::shared_ptr<const ClusterSecret>& secret);

  // UNAUTHENTICATED: the caller does not prove who he is. PERMISSION_DENIED: he is somebody who may not call `method`.
  // Both say what to do. `context`: grpc::ServerContext or grpc::CallbackServerContext.
  template <typename Context>
  absl::Status Check(const Context& context, RpcMethod method) {
    if (proof_ == PeerProof::kNothing) return absl::OkStatus();
    return Check(*context.auth_context(), context.client_metadata(), context.peer(), method);
  }

  const Refusals& refusals(RpcMethod method) const { return refusals_[static_cast<size_t>(method)]; }
  // Connections whose TLS handshake succeeded.
  const std::shared_ptr<std::atomic<uint64_t>>& num_handshakes() const { return num_handshakes_; }

 private:
  absl::Status Check(const grpc::AuthContext& peer, const Metadata& metadata, const std::string& address,
                     RpcMethod method);
  absl::Status Decide(const grpc::AuthContext& peer, const Metadata& metadata, const MethodRule& rule);

  const PeerProof proof_;
  const std::unique_ptr<TokenCheck> tokens_;  // null: no secret
  std::array<Refusals, kMethodRules.size()> refusals_;
  const std::shared_ptr<std::atomic<uint64_t>> num_handshakes_ = std::make_shared<std::atomic<uint64_t>>(0);
};

}  // namespace tributary
