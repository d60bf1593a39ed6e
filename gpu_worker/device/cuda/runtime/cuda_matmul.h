// Matrix products by cuBLASLt: y = x W^T (+ y), f32 accumulation.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "absl/status/statusor.h"
#include "gpu_worker/device/cuda/runtime/cublaslt_library.h"
#include "gpu_worker/device/cuda/runtime/cuda_context.h"
#include "gpu_worker/device/cuda/runtime/cuda_memory.h"

namespace tributary {

// Device pointers; x and weight in the context's compute dtype, aligned to 16 bytes.
struct MatmulArgs {
  const void* weight = nullptr;  // [out][in]
  const void* x = nullptr;       // [rows][in]
  void* y = nullptr;             // [rows][out]
  uint64_t rows = 0;
  uint64_t in = 0;
  uint64_t out = 0;
  uint64_t x_stride = 0;  // elements from row to row; 0: in
  uint64_t y_stride = 0;  // elements from row to row; 0: out
  DType y_dtype = DType::kF32;
  bool accumulate = false;  // y += instead of y =
};

// One per stream: the workspace is not shared. Thread-compatible.
class CudaMatmul {
 public:
  static absl::StatusOr<std::unique_ptr<CudaMatmul>> Make(CudaContext* context);
  ~CudaMatmul();
  CudaMatmul(const CudaMatmul&) = delete;
  CudaMatmul& operator=(const CudaMatmul&) = delete;

  // Queues the product. The first call of a shape chooses its kernel by cuBLASLt's heuristic, later ones reuse it; may
  // be captured into a graph. An error makes the context fail (CudaContext::Check).
  void Run(const MatmulArgs& args, cudaStream_t stream);

  // Tries the heuristic's candidates for this shape and keeps the fastest; waits for the stream. y is overwritten, so
  // args.accumulate does not matter to it. Not while capturing.
  void Tune(const MatmulArgs& args, cudaStream_t stream);

  // Device memory of one instance, and of several on one device.
  static constexpr uint64_t kWorkspaceBytes = uint64_t{32} << 20;

 private:
  struct Plan;
  using Key = std::tuple<uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, DType, bool, uint64_t>;

  CudaMatmul(CudaContext* context, const CublasLtLibrary* library);
  Plan* FindOrMakePlan(const MatmulArgs& args);
  absl::Status MakePlan(const MatmulArgs& args, Plan* plan);
  cublasStatus_t Launch(const Plan& plan, size_t candidate, const MatmulArgs& args, cudaStream_t stream);

  CudaContext* const context_;
  const CublasLtLibrary* const library_;
  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace tributary
