// The roles of processes, and which role may call which method: one table.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

namespace tributary {

enum class PeerRole : uint8_t { kClient, kCoordinator, kWorker, kNode };
inline constexpr std::array kPeerRoles = {PeerRole::kClient, PeerRole::kCoordinator, PeerRole::kWorker,
                                          PeerRole::kNode};

// "client", "coordinator", "worker" or "node".
std::string_view PeerRoleName(PeerRole role);
std::optional<PeerRole> PeerRoleFromName(std::string_view name);

// The DNS name (subjectAltName) by which a certificate says that its holder has the role: "node.tributary.internal".
// A name, so that every TLS library checks it by itself when it is told to expect this server.
std::string CertificateName(PeerRole role);
std::optional<PeerRole> PeerRoleFromCertificateName(std::string_view name);

class PeerRoles {
 public:
  constexpr PeerRoles() = default;
  constexpr PeerRoles(std::initializer_list<PeerRole> roles) {
    for (const PeerRole role : roles) Add(role);
  }
  constexpr void Add(PeerRole role) { bits_ |= Bit(role); }
  constexpr bool Has(PeerRole role) const { return (bits_ & Bit(role)) != 0; }
  constexpr bool HasAnyOf(PeerRoles others) const { return (bits_ & others.bits_) != 0; }
  constexpr bool empty() const { return bits_ == 0; }

 private:
  static constexpr uint32_t Bit(PeerRole role) { return 1u << static_cast<uint32_t>(role); }
  uint32_t bits_ = 0;
};

// "worker", "worker or node"; "no role" if there is none.
std::string ToString(PeerRoles roles);

enum class RpcMethod : uint8_t {
  kGenerate,
  kCancel,
  kStatus,
  kRegister,
  kHeartbeat,
  kWorkerChannel,
  kConnect,
  kDisconnect,
  kOpenShard,
  kCloseShard,
};

struct MethodRule {
  RpcMethod method;
  std::string_view path;  // as gRPC has it
  PeerRole server;        // who serves it
  PeerRoles callers;      // who may call it

  // What stands after the last slash of `path`.
  std::string_view name() const { return path.substr(path.rfind('/') + 1); }
};

// In the order of RpcMethod. gRPC's health service, which is not in it, answers whoever may connect.
inline constexpr std::array kMethodRules = {
    MethodRule{RpcMethod::kGenerate, "/tributary.v1.Coordinator/Generate", PeerRole::kCoordinator, {PeerRole::kClient}},
    MethodRule{RpcMethod::kCancel, "/tributary.v1.Coordinator/Cancel", PeerRole::kCoordinator, {PeerRole::kClient}},
    MethodRule{RpcMethod::kStatus, "/tributary.v1.Coordinator/Status", PeerRole::kCoordinator, {PeerRole::kClient}},
    MethodRule{RpcMethod::kRegister, "/tributary.v1.NodeRegistry/Register", PeerRole::kCoordinator, {PeerRole::kNode}},
    MethodRule{
        RpcMethod::kHeartbeat, "/tributary.v1.NodeRegistry/Heartbeat", PeerRole::kCoordinator, {PeerRole::kNode}},
    MethodRule{RpcMethod::kWorkerChannel,
               "/tributary.v1.NodeRegistry/WorkerChannel",
               PeerRole::kCoordinator,
               {PeerRole::kWorker}},
    MethodRule{RpcMethod::kConnect, "/tributary.v1.CpuAttention/Connect", PeerRole::kNode, {PeerRole::kWorker}},
    MethodRule{RpcMethod::kDisconnect, "/tributary.v1.CpuAttention/Disconnect", PeerRole::kNode, {PeerRole::kWorker}},
    MethodRule{
        RpcMethod::kOpenShard, "/tributary.v1.CpuAttention/OpenShard", PeerRole::kNode, {PeerRole::kCoordinator}},
    MethodRule{
        RpcMethod::kCloseShard, "/tributary.v1.CpuAttention/CloseShard", PeerRole::kNode, {PeerRole::kCoordinator}},
};

constexpr const MethodRule& RuleOf(RpcMethod method) { return kMethodRules[static_cast<size_t>(method)]; }

}  // namespace tributary
