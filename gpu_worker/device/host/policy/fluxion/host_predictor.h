// A sequence's budget predictor on the host device: what it remembers of the tokens that have left, of earlier steps,
// and of a row of the step at hand. Used by host_fluxion.cc.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "gpu_worker/device/host/policy/host_facet.h"
#include "policy/fluxion/budget_predictor.h"
#include "policy/fluxion/head_features.h"
#include "policy/fluxion/remote_keys.h"

namespace tributary {

// Thread-compatible, but for OnAttended.
class HostPredictor {
 public:
  // Bytes of the one part that it needs: the coarse blocks.
  static uint64_t Bytes(const FacetSpec& spec);

  HostPredictor(const FacetSpec& spec, const HostFacetMemory& memory, BudgetPredictor predictor);

  // As of HostFacet.
  void OnNewTokens(uint32_t layer, SlotRange slots);
  void OnPrompt(const HostPrompt& prompt);
  void OnLeaving(const LeavingBlock& block);
  void OnQuery(const HostQuery& query);
  void OnAttended(const HostAttention& attention);

  // The budgets of the layer's query heads. The first call for a layer of a row counts as a step of its heads.
  std::span<const PredictedBudget> Budgets(const FacetQuery& query);

 private:
  struct Stream {  // of a layer's KV head
    RemoteKeys remote;
    double resident_norm_sum = 0;  // of |v|
    uint64_t num_resident = 0;
    double sink_value_norm = -1;  // mean |v|; below 0: not known yet
  };
  struct Row {
    DecodeRow decode;
    bool is_done = false;
    std::vector<float> q;
    std::vector<ResidentHead> heads;
    std::vector<double> last_layer;  // empty: the layer is the first
    std::vector<PredictedBudget> budgets;
  };

  Stream& StreamOf(uint32_t layer, uint32_t kv_head) {
    return streams_[size_t{layer} * spec_.shape.num_kv_heads + kv_head];
  }
  // f32 K and V of slots of a layer, [token][kv_head][head_dim], in k_ and v_.
  void ReadSlots(uint32_t layer, SlotRange slots);
  void Unpack(std::span<const std::byte> from, std::vector<float>* to) const;
  // The tokens of k_ and v_ leave.
  void AddRemote(uint32_t layer);
  std::span<const float> VectorOf(const std::vector<float>& rows, size_t token, uint32_t kv_head) const;
  double MeanValueNorm(uint32_t kv_head) const;  // of v_
  void FindSinks(const Row& row, uint32_t layer);
  void Predict(const FacetQuery& query, Row* row);

  FacetSpec spec_;
  const decltype(HostFacetMemory::read_kv) read_kv_;
  const BudgetPredictor predictor_;
  std::vector<Stream> streams_;  // [layer][kv_head]
  std::vector<HeadPast> past_;   // [layer][q_head]
  std::map<uint32_t, Row> rows_;
  HeadFeatures features_;
  std::vector<KvHeadView> views_;
  std::vector<std::byte> k_bytes_, v_bytes_;
  std::vector<float> k_, v_;
};

}  // namespace tributary
