#include "gpu_worker/device/cuda/runtime/cuda_gpu.h"

#include <charconv>

#include "base/status.h"
#include "cuda_runtime_api.h"
#include "fmt/format.h"
#include "gpu_worker/device/cuda/runtime/cuda_status.h"

namespace tributary {
namespace {

constexpr int kMinComputeCapability = 80;

std::string VersionText(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

absl::Status CheckDriver() {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) {
    return absl::UnavailableError(
        "no NVIDIA driver is loaded on this machine (libcuda.so.1): install it, start the "
        "container with the GPU (--gpus), or use --device host");
  }
  // Within a major release an older driver runs newer binaries.
  if (driver / 1000 < runtime / 1000) {
    return absl::UnavailableError(
        fmt::format("the NVIDIA driver supports CUDA {}, but this binary was built with CUDA {}: "
                    "update the driver, or build with CUDA {}.x",
                    VersionText(driver), VersionText(runtime), driver / 1000));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int> ParseCudaOrdinal(std::string_view device) {
  constexpr std::string_view kName = "cuda";
  if (device == kName) return 0;
  int ordinal = -1;
  if (device.starts_with("cuda:")) {
    const char* const end = device.data() + device.size();
    const auto parsed = std::from_chars(device.data() + kName.size() + 1, end, ordinal);
    if (parsed.ec == std::errc() && parsed.ptr == end && ordinal >= 0) return ordinal;
  }
  return absl::InvalidArgumentError(fmt::format("'{}' names no GPU; write cuda, or cuda:N for GPU N (from 0)", device));
}

absl::Status CheckCudaDevice(int ordinal) {
  TRIBUTARY_RETURN_IF_ERROR(CheckDriver());
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    cudaGetLastError();
    return absl::UnavailableError(
        fmt::format("CUDA finds no GPU on this machine ({}): check nvidia-smi and "
                    "CUDA_VISIBLE_DEVICES, or use --device host",
                    cudaGetErrorName(error)));
  }
  if (ordinal >= count) {
    return absl::NotFoundError(
        fmt::format("there is no GPU {}: CUDA sees {} here, 0 to {} (CUDA_VISIBLE_DEVICES may hide others)", ordinal,
                    count, count - 1));
  }
  cudaDeviceProp properties;
  TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, ordinal));
  if (properties.major * 10 + properties.minor < kMinComputeCapability) {
    return absl::FailedPreconditionError(
        fmt::format("GPU {} ({}) has compute capability {}.{}; {}.{} or higher is needed (A100, H100 ...): "
                    "choose another GPU with --device cuda:N, or use --device host",
                    ordinal, properties.name, properties.major, properties.minor, kMinComputeCapability / 10,
                    kMinComputeCapability % 10));
  }
  return absl::OkStatus();
}

}  // namespace tributary
