#include "gpu_worker/device/cuda/policy/cuda_facet.h"

#include <utility>

#include "absl/status/status.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {

SeatTable<CudaSeatFactory>& CudaSeats() {
#define TRIBUTARY_POLICY(name, Name) {#name, &Make##Name##CudaSeat},
  static SeatTable<CudaSeatFactory> seats{
#include "policy/policies.def"
  };
  return seats;
}

absl::StatusOr<std::unique_ptr<CudaDeviceSeats>> CudaDeviceSeats::Make(CudaContext* context) {
  auto seats = std::make_unique<CudaDeviceSeats>();
  for (const auto& [name, make] : CudaSeats().seats()) {
    TRIBUTARY_ASSIGN_OR_RETURN(std::unique_ptr<CudaSeat> seat, make(context));
    const bool has_facets = seat != nullptr;
    if (has_facets) seats->seats_.push_back(std::move(seat));
    seats->kinds_.emplace_back(name, has_facets ? seats->num_kinds() : 0);
  }
  return seats;
}

absl::StatusOr<uint32_t> CudaDeviceSeats::KindOf(std::string_view policy) const {
  for (const auto& [name, kind] : kinds_) {
    if (name == policy) return kind;
  }
  return absl::UnimplementedError(fmt::format(
      "the CUDA device has no seat for the policy '{}': ask for another policy, or use --device host", policy));
}

}  // namespace tributary
