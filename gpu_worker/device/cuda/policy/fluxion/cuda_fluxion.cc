// A sequence of policy fluxion keeps nothing on the GPU beside its KV, and says nothing with its queries: nodes then
// judge blocks by the remote tokens alone (policy/fluxion/query_section.h).
//
// Mode `predictor` is refused. Its features need of a step's graph what that does not give yet: the epilogue of the
// resident attention (entropy, sink and recent share of the softmax weights, the norm of its output, merged over
// splits), a copy of the coarse blocks that grows as blocks leave, and a copy of the budgets to the host before the
// query's section is written (CudaSeat::query_ready() has the moment, kAfterAttention).
#include "absl/status/status.h"
#include "gpu_worker/device/cuda/policy/cuda_facet.h"
#include "policy/fluxion/fluxion_params.h"

namespace tributary {
namespace {

class CudaFluxionSeat final : public CudaSeat {
 public:
  absl::Status Check(const FacetSpec& spec) const override {
    if (ReadFluxionParams(*spec.policy).mode != BudgetMode::kPredictor) return absl::OkStatus();
    return absl::UnimplementedError(
        "budget_mode is predictor, whose features the CUDA device does not compute yet: use budget_mode calibrated, or "
        "a worker with --device host");
  }
  std::vector<PolicyBytes> Parts(const FacetSpec&) const override { return {}; }
  std::unique_ptr<CudaFacet> MakeFacet(const FacetSpec&, const CudaFacetMemory&) override { return nullptr; }
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaSeat>> MakeFluxionCudaSeat(CudaContext*) {
  return std::make_unique<CudaFluxionSeat>();
}

}  // namespace tributary
