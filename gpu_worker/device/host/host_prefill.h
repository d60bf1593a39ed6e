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

#include "absl/status/statusor.h"
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

// What prompts share: one chunk's working memory, as one chunk is computed at a time. Everything outlives it.
struct HostPrefillShared {
  HostPrefillShared(const HostWeights& weights, const Rope& rope, const RowKernels& kernels,
                    uint32_t max_prefill_tokens, ThreadPool& pool, ResidentCache& cache);

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

  const HostWeights& weights;
  const Rope& rope;
  const RowKernels& kernels;
  const uint32_t max_prefill_tokens;
  ThreadPool& pool;
  ResidentCache& cache;
  std::vector<Scratch> scratch;  // by thread
  std::vector<float> q;          // [kPrefillChunkTokens][q_dim]
  std::vector<float> attended;   // the same
  std::vector<float> logits;     // [vocab]
};

// Thread-compatible; so are all that share.
class HostPrefill final : public Prefill {
 public:
  // What a prompt of this length takes, beside what is shared.
  static uint64_t Bytes(const ModelConfig& config, uint64_t num_tokens, DType kv_dtype);

  // As Device::BeginPrefill. `shared` outlives it.
  static absl::StatusOr<std::unique_ptr<Prefill>> Begin(HostPrefillShared* shared, std::span<const uint32_t> tokens,
                                                        DType kv_dtype);

  void Project(uint32_t layer, uint64_t token_begin, uint64_t token_end) override;
  void Attend(uint32_t layer, uint64_t token_begin, uint64_t token_end) override;
  CopyTicket Read(uint64_t token_begin, uint32_t num_tokens, HeadRange heads, std::span<std::byte> k,
                  std::span<std::byte> v) override;
  void Keep(uint32_t layer, ResidentId id, uint64_t token_begin, SlotRange slots) override;
  std::unique_ptr<const SpillSections> Leave(uint32_t layer, ResidentId id, TokenRange tokens) override;
  std::span<const float> End() override;

 private:
  using Scratch = HostPrefillShared::Scratch;
  // Throws std::bad_alloc.
  HostPrefill(HostPrefillShared* shared, std::span<const uint32_t> tokens, DType kv_dtype);

  // K and V of the layer last projected, [token][kv_head][head_dim] in the KV dtype.
  struct KvView {
    std::span<const std::byte> k, v;
  };
  KvView kv() const;
  KvView kv(TokenRange tokens) const;
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

  HostPrefillShared& shared_;
  const HostWeights& weights_;
  const DType kv_dtype_;
  const uint64_t num_tokens_;
  uint32_t layer_ = 0;                 // last projected
  AlignedBuffer<float> hidden_;        // [tokens][hidden]
  AlignedBuffer<float> k_;             // [tokens][kv_dim], rounded to the KV dtype
  AlignedBuffer<float> v_;             // the same
  AlignedBuffer<std::byte> k_stored_;  // the same in the KV dtype; empty for f32, where k_ is it
  AlignedBuffer<std::byte> v_stored_;
};

}  // namespace tributary
