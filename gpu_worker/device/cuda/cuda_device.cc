#include "gpu_worker/device/cuda/cuda_device.h"

#include "base/status.h"
#include "gpu_worker/device/cuda/cuda_context.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<Device>> MakeCudaDevice(std::shared_ptr<const ModelWeights> weights,
                                                       const DeviceLimits& limits,
                                                       const CudaDeviceOptions& options) {
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<CudaContext> context,
                             CudaContext::Make(weights->config, limits, options));
  return absl::UnimplementedError("the CUDA device computes nothing yet; use --device host");
}

}  // namespace tributary
