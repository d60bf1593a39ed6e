// A sequence of policy fluxion keeps nothing on the GPU beside its KV, and says nothing with its queries: nodes then
// judge blocks by the remote tokens alone (policy/fluxion/query_section.h).
#include "gpu_worker/device/cuda/policy/cuda_facet.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<CudaSeat>> MakeFluxionCudaSeat(CudaContext* context) { return nullptr; }

}  // namespace tributary
