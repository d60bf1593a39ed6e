// What the halves of the CUDA device share: the GPU, the streams, how things are computed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/device/cuda/runtime/cuda_gpu.h"
#include "gpu_worker/device/cuda/runtime/cuda_memory.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/device/layer_map.h"
#include "model/model_config.h"

namespace tributary {

struct CudaContext {
  // Binds the calling thread to the GPU, too. Errors as CheckCudaDevice().
  static absl::StatusOr<std::unique_ptr<CudaContext>> Make(const ModelConfig& config, const DeviceLimits& limits,
                                                           const CudaDeviceOptions& options);

  // A thread other than Make()'s starts on GPU 0: whatever may be its first call into the device begins with this.
  void BindThread() const;
  // Remembers the first error that cannot be undone: from then on the device does nothing any more (Device::status).
  // Returns true if `error` is cudaSuccess and there was none before.
  bool Check(cudaError_t error, const char* what);

  size_t q_dim() const { return size_t{config.attention.num_q_heads} * config.attention.head_dim; }
  size_t kv_dim() const { return size_t{config.attention.num_kv_heads} * config.attention.head_dim; }

  ModelConfig config;
  LayerMap layers;  // which of them have KV in shards
  DeviceLimits limits;
  CudaDeviceOptions options;
  DType compute_dtype = DType::kUnset;  // of matrices and of their inputs; never kUnset
  std::string name;                     // "NVIDIA H100 80GB HBM3"
  int num_sms = 0;
  int compute_capability = 0;  // 90 for 9.0
  uint64_t l2_bytes = 0;

  CudaStream decode_stream;   // decode steps; high priority, so that a step overtakes a prefill
  CudaStream prefill_stream;  // prefill's kernels
  CudaStream copy_stream;     // copy engine: KV out of the GPU

  absl::Status sticky;  // Check()'s first error
};

}  // namespace tributary
