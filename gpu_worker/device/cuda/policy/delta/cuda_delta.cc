// `delta` keeps nothing on the GPU beside the KV: the nodes find the tokens by themselves.
#include "gpu_worker/device/cuda/policy/cuda_facet.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<CudaSeat>> MakeDeltaCudaSeat(CudaContext* context) { return nullptr; }

}  // namespace tributary
