// The secret that all members of a cluster share where there is no TLS: each call of a member carries a token that only
// a holder of the secret can make.
//
//   tributary-member: v1 ROLE TIME_MS NONCE MAC
//   MAC = HMAC-SHA256(secret, "tributary v1\nROLE\nPATH\nTIME_MS\nNONCE"), in hexadecimal
//
// A token is good for one call of one method, once, for a minute. It says nothing of the call's content, and hides
// nothing: who can change what the network carries is not kept out.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "rpc/security/peer_role.h"

namespace tributary {

inline constexpr char kMemberTokenKey[] = "tributary-member";  // of the call's metadata

// Thread-safe.
class ClusterSecret {
 public:
  // The file's bytes without blanks and line ends at its end: 16 at least. INVALID_ARGUMENT names the flag
  // --cluster-secret-file, the path and the reason.
  static absl::StatusOr<std::shared_ptr<const ClusterSecret>> Load(const std::string& path);
  explicit ClusterSecret(std::string secret) : secret_(std::move(secret)) {}

  // `now_ms`: since 1970. `nonce`: of hexadecimal digits; never the same twice.
  std::string Sign(PeerRole role, std::string_view path, int64_t now_ms, std::string_view nonce) const;
  // The same, now, with a random nonce.
  std::string Sign(PeerRole role, std::string_view path) const;

 private:
  friend class TokenCheck;
  std::string Mac(std::string_view signed_text) const;  // hexadecimal

  const std::string secret_;
};

// Tells good tokens from others, and knows those that it has seen. Thread-safe.
class TokenCheck {
 public:
  static constexpr int64_t kToleranceMs = 60'000;  // between the two clocks, or in which a token may be on its way
  static constexpr size_t kMaxSeen = 1 << 17;      // tokens that are remembered

  explicit TokenCheck(std::shared_ptr<const ClusterSecret> secret) : secret_(std::move(secret)) {}

  // The role of who made the token for a call of `path`. UNAUTHENTICATED: another secret, too old or too new, seen
  // before, or no token at all.
  absl::StatusOr<PeerRole> Check(std::string_view token, std::string_view path, int64_t now_ms);

 private:
  const std::shared_ptr<const ClusterSecret> secret_;
  Mutex mutex_;
  std::set<std::pair<int64_t, std::string>> seen_ ABSL_GUARDED_BY(mutex_);  // time and nonce
  int64_t forgotten_ms_ ABSL_GUARDED_BY(mutex_) = INT64_MIN;  // tokens made by then may have been seen and forgotten
};

}  // namespace tributary
