// The decode half of the host device: one token of each row of a batch, layer by layer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/device/host/host_moe.h"
#include "gpu_worker/device/host/host_weights.h"
#include "gpu_worker/device/host/layer_ops.h"
#include "gpu_worker/device/host/resident_attention.h"
#include "gpu_worker/device/host/resident_cache.h"
#include "gpu_worker/device/host/row_kernels.h"

namespace tributary {

// Functions as in device.h. Every product and every softmax is of one row alone, so a row's results
// do not depend on its batch. Thread-compatible.
class HostDecode {
 public:
  HostDecode(const HostWeights& weights, const Rope& rope, const RowKernels& kernels, const DeviceLimits& limits,
             ResidentCache& cache, ThreadPool& pool);

  void BeginStep(std::span<const DecodeRow> rows);
  std::span<const float> AwaitQuery(uint32_t layer);
  void AttendResident(uint32_t layer);
  PartialSlots& partial_slots() { return partial_slots_; }
  void FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots);
  ConstAttentionPartialView resident_partial(uint32_t row_idx) const;
  std::span<const float> EndStep();

  // Scratch for the attention weights of a sequence whose facet wants them; steps allocate nothing then.
  void PrepareWeights(uint32_t capacity_tokens) { attention_.PrepareWeights(capacity_tokens); }

 private:
  // Of the residual stream into normed_; a copy without a weight.
  void NormaliseRows(std::span<const float> weight);
  // Adds what attention or an MLP left in projected_ to the residual stream.
  void AddToStream(const ResidualRule& rule);
  void Mlp(uint32_t layer);
  // Bias, norm and RoPE on a row's q, k and v; k and v go to the resident cache.
  void FinishProjection(uint32_t layer, size_t row_idx);
  // The row's facet, which does not see layers whose KV never leaves; null: none.
  HostFacet* FacetOf(size_t row_idx, uint32_t layer) const;
  // Once per layer: at AttendResident(), or before q goes out where a facet's words depend on it.
  void Attend(uint32_t layer);
  void KeepResidentPartial(size_t row_idx);
  // Folds the first num_slots partial slots into the resident partial: attended_ becomes the
  // layer's attention output.
  void MergeRow(size_t row_idx, uint32_t num_slots);

  const HostWeights& weights_;
  const Rope& rope_;
  const RowKernels& kernels_;
  const DeviceLimits limits_;
  ResidentCache& cache_;
  ThreadPool& pool_;
  ResidentAttention attention_;
  HostMoe moe_;

  std::span<const DecodeRow> rows_;
  std::vector<HostFacet*> facets_;  // by row; null: none
  const std::vector<HostFacet*> no_facets_;
  bool attends_first_ = false;   // some facet's query follows the attention
  std::vector<float> hidden_;    // [max_batch][hidden]
  std::vector<float> normed_;    // [max_batch][hidden]
  std::vector<float> qkv_;       // [max_batch][q_dim + 2 kv_dim]
  std::vector<float> q_;         // [max_batch][q_dim]
  std::vector<float> cos_;       // [max_batch][angles_per_token]
  std::vector<float> sin_;       // likewise
  std::vector<float> attended_;  // [max_batch][q_dim]
  std::vector<float> lse_ln_;    // [max_batch][num_q_heads]
  std::vector<float> kept_out_;  // as attended_ and lse_ln_, of rows that want it: before the last merge
  std::vector<float> kept_lse_ln_;
  std::vector<float> gate_up_;    // [max_batch][2 intermediate]
  std::vector<float> projected_;  // [max_batch][hidden]
  std::vector<float> logits_;     // [max_batch][vocab]
  std::vector<float> slot_out_;   // [max_batch][max_slots][num_q_heads][head_dim]
  std::vector<float> slot_lse_ln_;
  PartialSlots partial_slots_;
};

}  // namespace tributary
