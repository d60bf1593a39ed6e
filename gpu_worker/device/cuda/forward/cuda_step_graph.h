// A whole decode step as a CUDA graph: one for each padded batch size, mix of KV dtypes, set of policies whose facets
// the rows have, and for steps with and without an exchange with the host in each layer.
//
// Per layer: rmsnorm, QKV product, FinishQkv (bias, norm, RoPE, append; q to the host, flag rung), Attend (window,
// split over tokens), FetchPartials (waits for the host's flag; its partials to the GPU), MergePartials, output
// projection, rmsnorm, gate and up with SiLU, down. Up to kMaxMatVecRows rows the products are our own
// matrix-vector kernels, which add into the residual stream; larger batches, unless the device is deterministic, use
// cuBLASLt.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "absl/status/statusor.h"
#include "gpu_worker/device/cuda/forward/cuda_step_buffers.h"
#include "gpu_worker/device/cuda/kernels/launch.h"
#include "gpu_worker/device/cuda/policy/cuda_facet.h"
#include "gpu_worker/device/cuda/runtime/cuda_context.h"
#include "gpu_worker/device/cuda/runtime/cuda_matmul.h"
#include "gpu_worker/device/cuda/storage/cuda_weights.h"

namespace tributary {

struct StepGraphKey {
  uint32_t rows = 0;       // RowBucket()
  bool exchange = false;   // some row may have remote partials
  uint32_t kv_dtypes = 0;  // bit DType: some row's KV has it
  uint32_t facets = 0;     // bit kind - 1: some row has a facet of this kind (policy/cuda_facet.h)
  auto operator<=>(const StepGraphKey&) const = default;
};

class StepGraphs {
 public:
  // All outlive this.
  StepGraphs(CudaContext* context, const CudaWeights* weights, const CudaDeviceSeats* seats, StepBuffers* buffers,
             CudaMatmul* matmul);
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  // Null if it cannot be made; the context has failed then. Some milliseconds for the first call with a key.
  cudaGraphExec_t Get(const StepGraphKey& key);

  // Makes the graphs for KV of this dtype up to max_batch beforehand, and chooses the fastest product kernels.
  void Prepare(DType kv_dtype);

 private:
  // One product of a layer: y (+)= x W^T.
  struct Product {
    const void* weight;
    const void* x;
    void* y;
    uint32_t in, out;
    const float* bias = nullptr;
    DType y_dtype = DType::kF32;
  };
  void Record(const StepGraphKey& key);
  void RecordAttention(const StepGraphKey& key, uint32_t layer);
  // Nodes of the policies whose facets the rows have.
  using AddNodes = cudaError_t (CudaSeat::*)(const CudaStepNodes&);
  void RecordFacets(const StepGraphKey& key, uint32_t layer, const gpu::SplitRule& rule, AddNodes add);
  // When the host may have q and what the facets say with it.
  CudaSeat::QueryReady QueryReadyOf(const StepGraphKey& key) const;
  bool WantsScores(const StepGraphKey& key) const;
  void RecordAttend(const StepGraphKey& key, uint32_t layer, const gpu::SplitRule& rule);
  void RecordFetch(uint32_t rows, uint32_t layer);
  void RecordMlp(const StepGraphKey& key, uint32_t layer);
  // A layer of experts, into the branch buffer.
  void RecordExperts(uint32_t rows, uint32_t layer);
  // The norms of q and k that are over all heads.
  void RecordWholeNorms(uint32_t rows, uint32_t layer);
  void RecordLogits(uint32_t rows);
  void RecordNorm(uint32_t rows, const float* weight, const float* delta_bias);
  void Store(uint32_t rows, const Product& product);
  // Adds no bias when cuBLASLt does it: the next norm adds it (see uses_matvec).
  void AddResidual(uint32_t rows, const Product& product);
  // What attention or an MLP adds to the stream: at once, or by way of the branch buffer where the model has a norm
  // behind it or scales it.
  void AddToStream(uint32_t rows, const Product& product, const float* post_norm);
  void AddBranch(uint32_t rows, const float* bias, const float* post_norm);
  bool adds_at_once(const float* post_norm) const {
    return post_norm == nullptr && context_->config.residual_scale == 1.0;
  }
  void MatVecRows(uint32_t rows, const Product& product, int epilogue);
  bool uses_matvec(uint32_t rows) const;
  void TuneProducts(uint32_t rows);
  // Keeps the first error of a recording.
  void Note(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }
  gpu::Launch launch() const { return {context_->decode_stream.get(), overlap_}; }

  CudaContext* const context_;
  const CudaWeights* const weights_;
  const CudaDeviceSeats* const seats_;
  StepBuffers* const buffers_;
  CudaMatmul* const matmul_;
  const bool overlap_;  // programmatic dependent launch
  cudaError_t error_ = cudaSuccess;
  std::map<StepGraphKey, cudaGraphExec_t> graphs_;
};

}  // namespace tributary
