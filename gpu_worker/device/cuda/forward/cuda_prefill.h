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

// What prompts share: one chunk's working memory, since their chunks follow each other on one stream. Everything that
// it points to outlives it.
class CudaPrefillShared {
 public:
  static absl::StatusOr<std::unique_ptr<CudaPrefillShared>> Make(CudaContext* context, const CudaWeights* weights,
                                                                 CudaResident* resident, CudaKvCopies* copies);
  ~CudaPrefillShared();

  // Device memory that Make() takes.
  static uint64_t ScratchBytes(const ModelConfig& config, DType compute_dtype);

  // Waits until at most one earlier chunk is still under way, of whichever prompt.
  void BeginUnit();
  void EndUnit();

  // Working memory of one chunk.
  struct Scratch {
    void* normed = nullptr;       // [chunk][hidden], compute dtype
    float* qkv = nullptr;         // [chunk][q_dim + 2 kv_dim]
    void* q = nullptr;            // [chunk][q_dim], the prompt's q_dtype_
    void* attended = nullptr;     // [chunk][q_dim], compute dtype
    void* gate_up = nullptr;      // [chunk][2 intermediate], the dtype of products
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

  CudaContext* const context;
  const CudaWeights* const weights;
  CudaResident* const resident;
  CudaKvCopies* const copies;
  std::unique_ptr<CudaMatmul> matmul;
  Scratch scratch;  // pointers into scratch_memory_
  PinnedBuffer logits;

 private:
  CudaPrefillShared(CudaContext* ctx, const CudaWeights* w, CudaResident* r, CudaKvCopies* c)
      : context(ctx), weights(w), resident(r), copies(c) {}
  // Places the scratch in memory at `base`; returns its size.
  static uint64_t Place(const ModelConfig& config, DType compute_dtype, std::byte* base, Scratch* scratch);

  DeviceBuffer scratch_memory_;
  CudaEvent unit_done_[2];  // by unit
  uint64_t num_units_ = 0;
};

// Thread-compatible; so are all that share.
class CudaPrefill final : public Prefill {
 public:
  // Device memory that a prompt takes, beside what is shared.
  static uint64_t PromptBytes(const ModelConfig& config, uint64_t num_tokens, DType kv_dtype);

  // As Device::BeginPrefill. `shared` outlives it.
  static absl::StatusOr<std::unique_ptr<Prefill>> Begin(CudaPrefillShared* shared, std::span<const uint32_t> tokens,
                                                        DType kv_dtype);
  ~CudaPrefill() override;

  void Project(uint32_t layer, uint64_t token_begin, uint64_t token_end) override;
  void Attend(uint32_t layer, uint64_t token_begin, uint64_t token_end) override;
  CopyTicket Read(uint64_t token_begin, uint32_t num_tokens, HeadRange heads, std::span<std::byte> k,
                  std::span<std::byte> v) override;
  void Keep(uint32_t layer, ResidentId id, uint64_t token_begin, SlotRange slots) override;
  std::unique_ptr<const SpillSections> Leave(uint32_t layer, ResidentId id, TokenRange tokens) override;
  std::span<const float> End() override;

 private:
  CudaPrefill(CudaPrefillShared* shared, uint64_t num_tokens, DType kv_dtype)
      : shared_(*shared),
        context_(shared->context),
        weights_(shared->weights),
        scratch_(shared->scratch),
        num_tokens_(num_tokens),
        kv_dtype_(kv_dtype) {}
  absl::Status Allocate();
  absl::Status Upload(std::span<const uint32_t> tokens);
  bool ok() const { return context_->sticky.ok(); }
  cudaStream_t stream() const { return context_->prefill_stream.get(); }
  float* hidden(uint64_t token) const { return hidden_.as<float>() + token * context_->config.hidden_size; }
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

  CudaPrefillShared& shared_;
  CudaContext* const context_;
  const CudaWeights* const weights_;
  const CudaPrefillShared::Scratch& scratch_;
  const uint64_t num_tokens_;
  const DType kv_dtype_;
  DType q_dtype_ = DType::kUnset;  // of q as attention reads it
  CudaEvent projected_;            // after the latest Project
  DeviceBuffer tokens_;            // u32 [tokens]
  DeviceBuffer hidden_;            // f32 [tokens][hidden]
  DeviceBuffer k_, v_;             // [tokens][kv_head][head_dim] of the layer last projected
};

}  // namespace tributary
