// A dense sequence keeps nothing on the GPU beside its KV.
#include "gpu_worker/device/cuda/policy/cuda_facet.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<CudaSeat>> MakeDenseCudaSeat(CudaContext* context) { return nullptr; }

}  // namespace tributary
