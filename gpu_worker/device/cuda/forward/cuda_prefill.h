// The prefill half of the CUDA device: layer-major over one prompt, one layer's KV at a time, so that a prompt whose KV
// is many times the device's memory works. Calls queue work on the prefill stream and return; the host runs ahead by
// two chunks at most, so that decode steps come in between.
//
// Device memory of a prompt: hidden states, f32 [tokens][hidden], and one layer's K and V.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/device/cuda/kernels/qkv.h"
#include "gpu_worker/device/cuda/runtime/cuda_context.h"
#include "gpu_worker/device/cuda/runtime/cuda_matmul.h"
#include "gpu_worker/device/cuda/runtime/cuda_memory.h"
#include "gpu_worker/device/cuda/storage/cuda_kv_copies.h"
#include "gpu_worker/device/cuda/storage/cuda_resident.h"
#include "gpu_worker/device/cuda/storage/cuda_weights.h"
#include "gpu_worker/device/device.h"

namespace tributary {

// Functions as in device.h. Thread-compatible.
class CudaPrefill {
 public:
  // All outlive this.
  static absl::StatusOr<std::unique_ptr<CudaPrefill>> Make(CudaContext* context, const CudaWeights* weights,
                                                           CudaResident* resident, CudaKvCopies* copies);
  ~CudaPrefill();

  // Device memory that Make() takes.
  static uint64_t ScratchBytes(const ModelConfig& config, DType compute_dtype);
  // Device memory that a prompt takes, beside the scratch.
  static uint64_t PromptBytes(const ModelConfig& config, uint64_t num_tokens, DType kv_dtype);

  absl::Status Begin(std::span<const uint32_t> tokens, DType kv_dtype);
  void Project(uint32_t layer, uint64_t token_begin, uint64_t token_end);
  void Attend(uint32_t layer, uint64_t token_begin, uint64_t token_end);
  CopyTicket Read(uint64_t token_begin, uint32_t num_tokens, HeadRange heads, std::span<std::byte> k,
                  std::span<std::byte> v);
  void Keep(uint32_t layer, ResidentId id, uint64_t token_begin, SlotRange slots);
  std::unique_ptr<const SpillSections> Leave(uint32_t layer, ResidentId id, TokenRange tokens);
  std::span<const float> End();
  void Drop();

 private:
  // Working memory of one chunk; pointers into scratch_.
  struct Scratch {
    void* normed = nullptr;       // [chunk][hidden], compute dtype
    float* qkv = nullptr;         // [chunk][q_dim + 2 kv_dim]
    void* q = nullptr;            // [chunk][q_dim], q_dtype_
    void* attended = nullptr;     // [chunk][q_dim], compute dtype
    void* gate_up = nullptr;      // [chunk][2 intermediate], product_dtype()
    void* mlp = nullptr;          // [chunk][intermediate], compute dtype
    float* branch = nullptr;      // [chunk][hidden]: what attention or MLP adds, where it is not added at once
    float* router = nullptr;      // [chunk][num_experts]
    uint32_t* experts = nullptr;  // [chunk][experts_per_token]
    float* expert_weights = nullptr;
    float* gated = nullptr;  // [chunk][experts_per_token][intermediate of experts]
    float* cos = nullptr;    // [chunk][rotary_dim / 2]
    float* sin = nullptr;
    float* logits = nullptr;  // [vocab]
  };
  // Places the scratch in memory at `base`; returns its size.
  static uint64_t Place(const ModelConfig& config, DType compute_dtype, std::byte* base, Scratch* scratch);

  CudaPrefill(CudaContext* context, const CudaWeights* weights, CudaResident* resident, CudaKvCopies* copies)
      : context_(context), weights_(weights), resident_(resident), copies_(copies) {}
  bool ok() const { return context_->sticky.ok(); }
  cudaStream_t stream() const { return context_->prefill_stream.get(); }
  float* hidden(uint64_t token) const { return hidden_.as<float>() + token * context_->config.hidden_size; }
  absl::Status CheckPrompt(std::span<const uint32_t> tokens, DType kv_dtype) const;
  // Waits until at most one earlier chunk is still under way.
  void BeginUnit();
  void EndUnit();
  // RMSNorm of hidden rows, after adding bias to them (may be null), into scratch_.normed.
  void Normalise(const float* weight, const float* bias, uint64_t token_begin, uint32_t rows);
  // Raw q, k, v of a chunk -> what attention reads; only q, or only k and v.
  void FinishHeads(uint32_t layer, uint64_t token_begin, uint32_t rows, bool queries);
  void Multiply(const void* weight, uint64_t in, uint64_t out, const void* x, void* y, DType y_dtype, uint32_t rows,
                bool accumulate, uint64_t y_stride = 0);
  // Stream of a chunk += weight x; by way of the branch where the model has a norm behind it or scales it.
  void AddProduct(const void* weight, uint64_t in, const void* x, const float* bias, const float* post_norm,
                  uint64_t token_begin, uint32_t rows);
  void AddBranch(const float* bias, const float* post_norm, uint64_t token_begin, uint32_t rows);
  bool adds_at_once(const float* post_norm) const {
    return post_norm == nullptr && context_->config.residual_scale == 1.0;
  }
  // A layer of experts, into the branch.
  void RunExperts(uint32_t layer, uint32_t rows);
  void AttendChunk(uint32_t layer, uint64_t token_begin, uint32_t rows);
  void MlpChunk(uint32_t layer, uint64_t token_begin, uint32_t rows);

  CudaContext* const context_;
  const CudaWeights* const weights_;
  CudaResident* const resident_;
  CudaKvCopies* const copies_;
  std::unique_ptr<CudaMatmul> matmul_;
  DeviceBuffer scratch_memory_;
  Scratch scratch_;
  PinnedBuffer logits_;
  CudaEvent projected_;     // after the latest Project
  CudaEvent unit_done_[2];  // by unit
  uint64_t num_units_ = 0;

  // The prompt; empty when there is none.
  uint64_t num_tokens_ = 0;
  DType kv_dtype_ = DType::kUnset;
  DType q_dtype_ = DType::kUnset;  // of q as attention reads it
  DeviceBuffer tokens_;            // u32 [tokens]
  DeviceBuffer hidden_;            // f32 [tokens][hidden]
  DeviceBuffer k_, v_;             // [tokens][kv_head][head_dim] of the layer last projected
};

}  // namespace tributary
