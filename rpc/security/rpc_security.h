// A process's side of "who are you?": made once from its flags, it gives every channel and server its credentials, and
// every service its PeerAccess.
//
// TLS files are read again every few seconds while the process runs: new connections use what they hold then.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "rpc/rpc_options.h"
#include "rpc/security/peer_access.h"
#include "rpc/security/security_options.h"

namespace tributary {

// Thread-safe.
class RpcSecurity {
 public:
  // INVALID_ARGUMENT names the flag and what is wrong with its value or file (tls_identity.h, cluster_secret.h).
  static absl::StatusOr<std::shared_ptr<RpcSecurity>> Make(const SecurityOptions& options, PeerRole self);
  // Plaintext, and everybody may do everything: for tests, and for what nobody else can reach.
  static std::shared_ptr<RpcSecurity> Open();

  PeerRole self() const { return self_; }
  PeerProof proof() const { return proof_; }
  PeerAccess& access() { return access_; }
  // Of a server of this process. One that asks nobody who he is listens to this host alone, unless it was made by
  // Open() or with SecurityOptions::insecure.
  RpcOptions ServerOptions() const;
  // Of a channel to a process with the role `server`, which proves that it is one, if there is TLS.
  RpcOptions ChannelOptions(PeerRole server) const;
  // When the certificate that the file has now expires; nothing without TLS, or if the file cannot be read.
  std::optional<int64_t> NotAfterUnixS() const;

 private:
  RpcSecurity(const SecurityOptions& options, PeerRole self, PeerProof proof,
              const std::shared_ptr<const ClusterSecret>& secret);
  void MakeTlsCredentials();

  const SecurityOptions options_;
  const PeerRole self_;
  const PeerProof proof_;
  const std::shared_ptr<const ClusterSecret> secret_;
  PeerAccess access_;
  RpcCredentials credentials_;
};

}  // namespace tributary
