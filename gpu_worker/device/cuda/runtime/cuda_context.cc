#include "gpu_worker/device/cuda/runtime/cuda_context.h"

#include "base/log.h"
#include "base/status.h"
#include "fmt/format.h"
#include "gpu_worker/device/cuda/runtime/cuda_status.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<CudaContext>> CudaContext::Make(const ModelConfig& config, const DeviceLimits& limits,
                                                               const CudaDeviceOptions& options) {
  TRIBUTARY_RETURN_IF_ERROR(CheckCudaDevice(options.ordinal));
  auto context = std::make_unique<CudaContext>();
  context->config = config;
  context->layers = LayerMap(config.num_layers, config.windowed_layers());
  context->limits = limits;
  context->options = options;
  cudaDeviceProp properties;
  TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, options.ordinal));
  context->name = properties.name;
  context->num_sms = properties.multiProcessorCount;
  context->compute_capability = properties.major * 10 + properties.minor;
  context->l2_bytes = static_cast<uint64_t>(properties.l2CacheSize);
  TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaSetDevice(options.ordinal));
  TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaFree(nullptr));  // errors of a broken GPU come here
  TRIBUTARY_ASSIGN_OR_RETURN(context->decode_stream, CudaStream::Make(/*high_priority=*/true));
  TRIBUTARY_ASSIGN_OR_RETURN(context->prefill_stream, CudaStream::Make(/*high_priority=*/false));
  TRIBUTARY_ASSIGN_OR_RETURN(context->copy_stream, CudaStream::Make(/*high_priority=*/true));
  return context;
}

void CudaContext::BindThread() const { cudaSetDevice(options.ordinal); }

bool CudaContext::Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess && sticky.ok()) {
    sticky = absl::InternalError(
        fmt::format("GPU {} ({}) failed and cannot be used any more: {} ({}) in {}; the worker has to start "
                    "again (see the kernel log for Xid messages)",
                    options.ordinal, name, cudaGetErrorName(error), cudaGetErrorString(error), what));
    LOG_ERROR("{}", std::string(sticky.message()));
  }
  return error == cudaSuccess && sticky.ok();
}

}  // namespace tributary
