// Who is in the cluster, and whether it can be relied upon. Pure: time is an argument.
//
//   alive    --silent for suspect_after_ns-->  suspect  --silent for dead_after_ns-->  dead
//   suspect  --heartbeat-->                    alive
//   dead     --heartbeat-->                    suspect (half open: no new shards)  --heartbeat-->
//   alive alive    --heartbeat says draining-->      draining (finishes what it has, takes nothing
//   new)
//
// A restarted process has a new incarnation: it replaces the old one, which is fenced: it may
// neither heartbeat nor register again. It does so only once the old one is dead, has left, or is
// silent for dead_after_ns: two processes with one id never displace each other while both live.
// The epoch rises with every change.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "cluster/cluster_status.h"
#include "cluster/cluster_types.h"

namespace tributary {

struct MembershipOptions {
  uint32_t protocol_version = 0;
  int64_t suspect_after_ns = 0;
  int64_t dead_after_ns = 0;
  int64_t forget_after_ns = 0;  // a dead member is dropped this long after it was last heard
};

// One member's change of state. `node` is what it was when it changed: of a replaced incarnation,
// the old one.
struct MemberChange {
  NodeDescription node;
  MemberState state = MemberState::kAlive;
  // kDead for certain, and what it held with it: another incarnation came, its stream ended, or it was forgotten. Else
  // it is only silent, and may come back with all that it has.
  bool is_gone = false;
};

// Thread-compatible.
class Membership {
 public:
  explicit Membership(const MembershipOptions& options) : options_(options) {}

  // FAILED_PRECONDITION: another protocol version, another geometry than the cluster's, a fenced
  // incarnation; INVALID_ARGUMENT: a description that lacks what its role needs; ALREADY_EXISTS:
  // another incarnation that may live has the id; after dead_after_ns it is free, unless that one
  // is heard again. Registering again is idempotent.
  absl::Status Register(const NodeDescription& node, int64_t now_ns, std::vector<MemberChange>* changes);
  // NOT_FOUND: unknown or replaced incarnation.
  absl::Status Heartbeat(const std::string& node_id, uint64_t incarnation, uint64_t free_bytes,
                         uint32_t reported_shards, bool draining, int64_t now_ns, std::vector<MemberChange>* changes);
  // Somebody failed to reach the node: nothing new goes there until its next heartbeat.
  void Suspect(const std::string& node_id, std::vector<MemberChange>* changes);
  // The node left (it says so, or its stream ended): dead at once. Ignores other incarnations.
  void Leave(const std::string& node_id, uint64_t incarnation, std::vector<MemberChange>* changes);
  void Tick(int64_t now_ns, std::vector<MemberChange>* changes);

  uint64_t epoch() const { return epoch_; }
  const Member* Find(const std::string& node_id) const;
  // They stand in the order of their ids.
  const std::map<std::string, Member>& members() const { return members_; }
  // The cluster's: that of its GPU workers which are not dead.
  std::optional<ModelGeometry> geometry() const;

 private:
  absl::Status CheckDescription(const NodeDescription& node) const;
  absl::Status CheckIdIsFree(const NodeDescription& node, int64_t now_ns) const;
  void SetState(Member& member, MemberState state, std::vector<MemberChange>* changes, bool is_gone = false);

  MembershipOptions options_;
  uint64_t epoch_ = 1;
  std::map<std::string, Member> members_;
  std::set<std::pair<std::string, uint64_t>> fenced_;
};

}  // namespace tributary
