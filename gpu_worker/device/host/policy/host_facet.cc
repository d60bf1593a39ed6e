#include "gpu_worker/device/host/policy/host_facet.h"

#include <string>

#include "absl/status/status.h"
#include "fmt/format.h"

namespace tributary {

SeatTable<HostSeat>& HostSeats() {
#define TRIBUTARY_POLICY(name, Name) {#name, Name##HostSeat()},
  static SeatTable<HostSeat> seats{
#include "policy/policies.def"
  };
  return seats;
}

absl::StatusOr<HostFacetPlan> HostFacetPlan::Make(const ResidentSpec& spec, const AttentionShape& shape,
                                                  uint32_t num_layers, const FacetModel* model) {
  HostFacetPlan plan;
  if (spec.policy == nullptr) return plan;
  const std::string name(spec.policy->name());
  const HostSeat* const seat = HostSeats().Find(name);
  if (seat == nullptr) {
    return absl::UnimplementedError(
        fmt::format("the host device has no seat for the policy '{}': ask for another policy", name));
  }
  plan.seat_ = *seat;
  plan.spec_ = MakeFacetSpec(spec, shape, num_layers, model);
  if (seat->parts != nullptr) plan.parts_ = seat->parts(plan.spec_);
  return plan;
}

absl::StatusOr<std::unique_ptr<HostFacet>> HostFacetPlan::MakeFacet(const HostFacetMemory& memory) const {
  if (seat_.make == nullptr) return nullptr;
  return seat_.make(spec_, memory);
}

}  // namespace tributary
