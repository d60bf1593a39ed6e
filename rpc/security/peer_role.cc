#include "rpc/security/peer_role.h"

namespace tributary {
namespace {

constexpr std::string_view kCertificateDomain = ".tributary.internal";

constexpr bool IsInOrder() {
  for (size_t i = 0; i < kMethodRules.size(); ++i) {
    if (kMethodRules[i].method != static_cast<RpcMethod>(i)) return false;
  }
  return true;
}
static_assert(IsInOrder());

}  // namespace

std::string_view PeerRoleName(PeerRole role) {
  switch (role) {
    case PeerRole::kClient:
      return "client";
    case PeerRole::kCoordinator:
      return "coordinator";
    case PeerRole::kWorker:
      return "worker";
    case PeerRole::kNode:
      return "node";
  }
  return "";
}

std::optional<PeerRole> PeerRoleFromName(std::string_view name) {
  for (const PeerRole role : kPeerRoles) {
    if (PeerRoleName(role) == name) return role;
  }
  return std::nullopt;
}

std::string CertificateName(PeerRole role) { return std::string(PeerRoleName(role)).append(kCertificateDomain); }

std::optional<PeerRole> PeerRoleFromCertificateName(std::string_view name) {
  if (!name.ends_with(kCertificateDomain)) return std::nullopt;
  return PeerRoleFromName(name.substr(0, name.size() - kCertificateDomain.size()));
}

std::string ToString(PeerRoles roles) {
  std::string text;
  for (const PeerRole role : kPeerRoles) {
    if (!roles.Has(role)) continue;
    text.append(text.empty() ? "" : " or ").append(PeerRoleName(role));
  }
  return text.empty() ? "no role" : text;
}

}  // namespace tributary
