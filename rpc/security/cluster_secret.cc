#include "rpc/security/cluster_secret.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <optional>
#include <vector>

#include "base/check.h"
#include "base/random_id.h"
#include "base/status.h"
#include "fmt/format.h"
#include "rpc/security/secret_file.h"

namespace tributary {
namespace {

constexpr char kFlag[] = "--cluster-secret-file";
constexpr size_t kMinSecretBytes = 16;
constexpr size_t kMaxSecretBytes = 4096;
constexpr size_t kNonceBytes = 16;
constexpr size_t kMaxTokenBytes = 256;
constexpr std::string_view kVersion = "v1";

std::string Hex(const unsigned char* bytes, size_t size) {
  std::string text;
  for (size_t i = 0; i < size; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

std::string SignedText(std::string_view role, std::string_view path, std::string_view time_ms, std::string_view nonce) {
  return fmt::format("tributary v1\n{}\n{}\n{}\n{}", role, path, time_ms, nonce);
}

std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> words;
  while (true) {
    const size_t blank = text.find(' ');
    words.push_back(text.substr(0, blank));
    if (blank == std::string_view::npos) return words;
    text.remove_prefix(blank + 1);
  }
}

absl::Status Malformed() {
  return absl::UnauthenticatedError(
      "the caller's proof of membership cannot be read; run the same release on all processes of a cluster");
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ClusterSecret>> ClusterSecret::Load(const std::string& path) {
  TRIBUTARY_ASSIGN_OR_RETURN(std::string secret, ReadSecurityFile(kFlag, path, /*is_secret=*/true, kMaxSecretBytes));
  while (!secret.empty() && std::string_view(" \t\r\n").find(secret.back()) != std::string_view::npos) {
    secret.pop_back();
  }
  if (secret.size() < kMinSecretBytes) {
    return absl::InvalidArgumentError(
        fmt::format("{} '{}': holds {} bytes; a secret has {} at least, e.g. of 'openssl rand -hex 32'", kFlag, path,
                    secret.size(), kMinSecretBytes));
  }
  return std::make_shared<const ClusterSecret>(std::move(secret));
}

std::string ClusterSecret::Mac(std::string_view signed_text) const {
  std::array<unsigned char, EVP_MAX_MD_SIZE> mac{};
  unsigned int size = 0;
  const auto* const made =
      HMAC(EVP_sha256(), secret_.data(), static_cast<int>(secret_.size()),
           reinterpret_cast<const unsigned char*>(signed_text.data()), signed_text.size(), mac.data(), &size);
  TRIBUTARY_CHECK(made != nullptr);
  return Hex(mac.data(), size);
}

std::string ClusterSecret::Sign(PeerRole role, std::string_view path, int64_t now_ms, std::string_view nonce) const {
  const std::string time_ms = fmt::format("{}", now_ms);
  return fmt::format("{} {} {} {} {}", kVersion, PeerRoleName(role), time_ms, nonce,
                     Mac(SignedText(PeerRoleName(role), path, time_ms, nonce)));
}

std::string ClusterSecret::Sign(PeerRole role, std::string_view path) const {
  std::array<std::byte, kNonceBytes> nonce{};
  FillRandom(nonce);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return Sign(role, path, std::chrono::duration_cast<std::chrono::milliseconds>(now).count(),
              Hex(reinterpret_cast<const unsigned char*>(nonce.data()), nonce.size()));
}

absl::StatusOr<PeerRole> TokenCheck::Check(std::string_view token, std::string_view path, int64_t now_ms) {
  if (token.empty()) {
    return absl::UnauthenticatedError(
        "only members of the cluster may call it, and the caller does not show that it is one; start it with "
        "--cluster-secret-file and the file that this process has");
  }
  if (token.size() > kMaxTokenBytes) return Malformed();
  const std::vector<std::string_view> words = Words(token);
  if (words.size() != 5 || words[0] != kVersion) return Malformed();
  const std::string mac = secret_->Mac(SignedText(words[1], path, words[2], words[3]));
  if (mac.size() != words[4].size() || CRYPTO_memcmp(mac.data(), words[4].data(), mac.size()) != 0) {
    return absl::UnauthenticatedError(
        "the caller's cluster secret is another than this process's; give both the same --cluster-secret-file");
  }
  // From here on a member has written it.
  const std::optional<PeerRole> role = PeerRoleFromName(words[1]);
  int64_t made_ms = 0;
  const auto [stop, error] = std::from_chars(words[2].data(), words[2].data() + words[2].size(), made_ms);
  if (!role.has_value() || error != std::errc() || stop != words[2].data() + words[2].size()) return Malformed();
  if (made_ms < now_ms - kToleranceMs || made_ms > now_ms + kToleranceMs) {
    return absl::UnauthenticatedError(
        fmt::format("the caller's clock is {} s {} this process's; at most {} are allowed: set the hosts' clocks (NTP)",
                    std::abs(made_ms - now_ms) / 1000, made_ms < now_ms ? "behind" : "ahead of", kToleranceMs / 1000));
  }
  MutexLock lock(&mutex_);
  while (!seen_.empty() && (seen_.begin()->first < now_ms - kToleranceMs || seen_.size() >= kMaxSeen)) {
    forgotten_ms_ = seen_.begin()->first;
    seen_.erase(seen_.begin());
  }
  if (made_ms <= forgotten_ms_ || !seen_.emplace(made_ms, std::string(words[3])).second) {
    return absl::UnauthenticatedError("the caller's proof of membership was used before; somebody repeats a call");
  }
  return *role;
}

}  // namespace tributary
