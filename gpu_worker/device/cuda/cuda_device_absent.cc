// Stands in for the CUDA device in a build without the CUDA toolkit.
#include "absl/status/status.h"
#include "gpu_worker/device/cuda/cuda_device.h"

namespace tributary {
namespace {

absl::Status NotBuilt() {
  return absl::UnimplementedError(
      "this build has no CUDA device: install the CUDA toolkit and build again (README.md), or use "
      "--device host, which runs anywhere");
}

}  // namespace

absl::StatusOr<int> ParseCudaOrdinal(std::string_view) { return NotBuilt(); }
absl::Status CheckCudaDevice(int) { return NotBuilt(); }
absl::StatusOr<std::unique_ptr<Device>> MakeCudaDevice(std::shared_ptr<const ModelWeights>, const DeviceLimits&,
                                                       const CudaDeviceOptions&) {
  return NotBuilt();
}

}  // namespace tributary
