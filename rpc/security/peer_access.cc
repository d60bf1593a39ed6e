#include "rpc/security/peer_access.h"

#include <chrono>
#include <string>

#include "base/clock.h"
#include "base/log.h"
#include "base/outside_text.h"
#include "base/rate_limit.h"
#include "base/status.h"
#include "fmt/format.h"
#include "grpc/grpc_security_constants.h"
#include "grpcpp/security/auth_context.h"

namespace tributary {
namespace {

constexpr uint32_t kLinesPerSecond = 5;

std::string_view ViewOf(grpc::string_ref text) { return {text.data(), text.size()}; }

PeerRoles RolesOf(const grpc::AuthContext& peer) {
  PeerRoles roles;
  if (!peer.IsPeerAuthenticated()) return roles;
  for (const grpc::string_ref& name : peer.FindPropertyValues(GRPC_PEER_DNS_PROPERTY_NAME)) {
    if (const auto role = PeerRoleFromCertificateName(ViewOf(name)); role.has_value()) roles.Add(*role);
  }
  return roles;
}

std::string NameOf(const grpc::AuthContext& peer) {
  const auto names = peer.FindPropertyValues(GRPC_X509_CN_PROPERTY_NAME);
  return names.empty() ? "" : Printable(ViewOf(names.front()));
}

int64_t UnixMs() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

absl::Status NotForRole(const MethodRule& rule, const std::string& who) {
  return absl::PermissionDeniedError(
      fmt::format("{} is for the role {}; the caller has {}", std::string(rule.name()), ToString(rule.callers), who));
}

void LogRefusal(const MethodRule& rule, const std::string& address, const absl::Status& status) {
  static RateLimit limit(kNsPerS, kLinesPerSecond);
  const auto held_back = limit.Admit(RealClock().NowNs());
  if (!held_back.has_value()) return;
  if (*held_back > 0) LOG_WARN("{} more refused calls were not logged", *held_back);
  LOG_WARN("refused {} from {}: {}", rule.name(), address, status.ToString());
}

}  // namespace

PeerAccess::PeerAccess(PeerProof proof, const std::shared_ptr<const ClusterSecret>& secret)
    : proof_(proof), tokens_(secret == nullptr ? nullptr : std::make_unique<TokenCheck>(secret)) {}

absl::Status PeerAccess::Check(const grpc::AuthContext& peer, const Metadata& metadata, const std::string& address,
                               RpcMethod method) {
  const MethodRule& rule = RuleOf(method);
  const absl::Status status = Decide(peer, metadata, rule);
  if (status.ok()) return status;
  Refusals& refusals = refusals_[static_cast<size_t>(method)];
  auto& count = absl::IsUnauthenticated(status) ? refusals.unauthenticated : refusals.permission_denied;
  count.fetch_add(1, std::memory_order_relaxed);
  LogRefusal(rule, address, status);
  return status;
}

absl::Status PeerAccess::Decide(const grpc::AuthContext& peer, const Metadata& metadata, const MethodRule& rule) {
  if (proof_ == PeerProof::kTls) {
    const PeerRoles roles = RolesOf(peer);
    if (!roles.HasAnyOf(rule.callers)) {
      return NotForRole(rule, fmt::format("{}, by the certificate of '{}'", ToString(roles), NameOf(peer)));
    }
  }
  if (tokens_ == nullptr || rule.callers.Has(PeerRole::kClient)) return absl::OkStatus();
  const auto token = metadata.find(kMemberTokenKey);
  TRIBUTARY_ASSIGN_OR_RETURN(
      const PeerRole role,
      tokens_->Check(token == metadata.end() ? std::string_view() : ViewOf(token->second), rule.path, UnixMs()));
  if (rule.callers.Has(role)) return absl::OkStatus();
  return NotForRole(rule, fmt::format("the role {}", PeerRoleName(role)));
}

}  // namespace tributary
