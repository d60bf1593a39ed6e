#include "gpu_worker/device/cuda/cuda_resident.h"

#include "base/status.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<CudaResident>> CudaResident::Make(CudaContext* context) {
  std::unique_ptr<CudaResident> resident(new CudaResident(*context));
  TRIBUTARY_ASSIGN_OR_RETURN(
      resident->pool_,
      DeviceBuffer::Make(context->limits.resident_pool_bytes, "the resident pool"));
  return resident;
}

}  // namespace tributary
