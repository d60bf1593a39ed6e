// Looks at the files of --tls-cert, --tls-key and --tls-ca before gRPC does, so that what is wrong with them is said
// where it can be mended.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "rpc/security/peer_role.h"
#include "rpc/security/security_options.h"

namespace tributary {

struct TlsIdentity {
  std::string subject;           // e.g. "CN=gpu-0"
  PeerRoles roles;               // that the certificate gives
  int64_t not_after_unix_s = 0;  // when it expires
};

// INVALID_ARGUMENT, naming flag and file: one of the three is missing, cannot be read or is no PEM file; others can
// read the key; key and certificate do not belong together; the certificate is expired or not valid yet, is not vouched
// for by the CA file, may not be used for what the process needs it for, or does not have the role `self`.
absl::StatusOr<TlsIdentity> CheckTlsFiles(const TlsFiles& files, PeerRole self, int64_t now_unix_s);

// When the first certificate of the file expires, in seconds since 1970; nothing if it cannot be read.
std::optional<int64_t> ExpiryOf(const std::string& certificate_path);

}  // namespace tributary
