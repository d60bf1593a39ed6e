// The prefill half of the host device: layer-major over one prompt, one layer's KV at a time.
//
// Memory of a prompt: hidden states [tokens][hidden] and one layer's K and V. q is made where it is
// used, chunk by chunk, so no prompt-sized q exists. The last layer attends only for the last
// token: nobody reads the others.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/device/host/attend_tile.h"
#include "gpu_worker/device/host/host_moe.h"
#include "gpu_worker/device/host/host_weights.h"
#include "gpu_worker/device/host/layer_ops.h"
#include "gpu_worker/device/host/resident_cache.h"
#include "gpu_worker/device/host/row_kernels.h"

namespace tributary {

// Functions as in device.h. Thread-compatible.
class HostPrefill {
 public:
  HostPrefill(const HostWeights& weights, const Rope& rope, const RowKernels& kernels, uint32_t max_prefill_tokens,
              ThreadPool& pool);

  // What a prompt of this length takes, beside scratch.
  static uint64_t Bytes(const ModelConfig& config, uint64_t num_tokens, DType kv_dtype);

  absl::Status Begin(std::span<const uint32_t> tokens, DType kv_dtype);
  void Project(uint32_t layer, uint64_t token_begin, uint64_t token_end);
  void Attend(uint32_t layer, uint64_t token_begin, uint64_t token_end);
  void Read(uint64_t token_begin, uint32_t num_tokens, HeadRange heads, std::span<std::byte> k,
            std::span<std::byte> v) const;
  void Keep(uint32_t layer, ResidentCache& cache, ResidentId id, uint64_t token_begin, SlotRange slots) const;
  std::unique_ptr<const SpillSections> Leave(uint32_t layer, const ResidentCache& cache, ResidentId id,
                                             TokenRange tokens) const;
  std::span<const float> End();
  void Drop();

 private:
  // K and V of the layer last projected, [token][kv_head][head_dim] in the KV dtype.
  struct KvView {
    std::span<const std::byte> k, v;
  };
  KvView kv() const;
  KvView kv(TokenRange tokens) const;
  // One thread's working memory for a tile of tokens or of queries.
  struct Scratch {
    Scratch(const HostWeights& weights, const RowKernels& kernels, const Rope& rope);
    std::vector<float> normed;     // [kTokenTile][hidden]
    std::vector<float> branch;     // [kTokenTile][hidden], where the product cannot add to the stream itself
    std::vector<float> projected;  // [kTokenTile][max(2 kv_dim, 2 intermediate)]
    std::vector<float> cos;        // [angles_per_token]
    std::vector<float> sin;        // likewise
    AttendState attend;
    HostMoe moe;
  };
  float* hidden(uint64_t token) { return hidden_.data() + token * weights_.config().hidden_size; }
  void Normalise(std::span<const float> weight, uint64_t token_begin, size_t count, Scratch& scratch);
  // Stream of some tokens += w x, by the rule.
  void AddProduct(const MatrixView& w, const float* x, size_t ld_x, const ResidualRule& rule, uint64_t token_begin,
                  size_t count, Scratch& scratch);
  void ProjectTile(uint32_t layer, uint64_t token_begin, size_t count, Scratch& scratch);
  void QueryTile(uint32_t layer, uint64_t token_begin, size_t count, float* q, Scratch& scratch);
  void AttendTile(uint32_t layer, uint32_t q_head, uint64_t token_begin, size_t count, const float* q, float* out,
                  Scratch& scratch);
  void FinishTile(uint32_t layer, uint64_t token_begin, size_t count, const float* attended, Scratch& scratch);
  void MlpTile(uint32_t layer, uint64_t token_begin, size_t count, Scratch& scratch);

  const HostWeights& weights_;
  const Rope& rope_;
  const RowKernels& kernels_;
  const uint32_t max_prefill_tokens_;
  ThreadPool& pool_;
  std::vector<Scratch> scratch_;  // by thread
  std::vector<float> q_;          // [kPrefillChunkTokens][q_dim]
  std::vector<float> attended_;   // the same
  std::vector<float> logits_;     // [vocab]

  // The prompt; empty when there is none.
  DType kv_dtype_ = DType::kUnset;
  uint64_t num_tokens_ = 0;
  uint32_t layer_ = 0;                 // last projected
  AlignedBuffer<float> hidden_;        // [tokens][hidden]
  AlignedBuffer<float> k_;             // [tokens][kv_dim], rounded to the KV dtype
  AlignedBuffer<float> v_;             // the same
  AlignedBuffer<std::byte> k_stored_;  // the same in the KV dtype; empty for f32, where k_ is it
  AlignedBuffer<std::byte> v_stored_;
};

}  // namespace tributary
