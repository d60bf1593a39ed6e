// What the enums of the house types are called.
#include "cluster/cluster_status.h"
#include "cluster/cluster_types.h"
#include "cluster/generate_request.h"

namespace tributary {

std::string_view NodeRoleName(NodeRole role) { return role == NodeRole::kGpuWorker ? "gpu_worker" : "cpu_attention"; }

std::string_view MemberStateName(MemberState state) {
  switch (state) {
    case MemberState::kAlive:
      return "alive";
    case MemberState::kSuspect:
      return "suspect";
    case MemberState::kDead:
      return "dead";
    case MemberState::kDraining:
      return "draining";
  }
  return "unknown";
}

std::string_view CutName(Cut cut) {
  switch (cut) {
    case Cut::kAuto:
      return "auto";
    case Cut::kTokens:
      return "tokens";
    case Cut::kHeads:
      return "heads";
    case Cut::kBoth:
      return "both";
  }
  return "unknown";
}

}  // namespace tributary
