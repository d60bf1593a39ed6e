// Fluxion on a node (policy/README.md): each query's heads read the blocks that their summaries' bounds say matter. The
// summaries are the shard's; this has, per layer and query head, what earlier queries showed (HeadBudget).
//
//   a query                reads what each head's budget takes
//   ... of a head that was never calibrated, of an appended prompt, or of several tokens: reads everything; the first
//                          two calibrate
//   a measured query       calibrates anew
//   an error of the merged output, which comes with a later query: moves the budgets. A worker that sends no sections
//                          never says; then what a measured query shows of this shard alone does
//   now and then           the block sizes are compared, by KV head, and the cheapest serves until the next time
//
// Mode `predictor` reads what the query says that each head needs, and everything where it does not; `fixed` and
// `oracle` have no state.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cpu_attention_service/policy/fluxion/head_choice.h"
#include "cpu_attention_service/policy/fluxion/oracle_choice.h"
#include "cpu_attention_service/policy/shard_policy.h"
#include "kv_store/kv_shard.h"
#include "policy/fluxion/fluxion.h"
#include "policy/fluxion/fluxion_params.h"
#include "policy/fluxion/head_budget.h"
#include "policy/fluxion/query_section.h"

namespace tributary {

// Thread-compatible, but for PlanHead. Sections: policy/fluxion/query_section.h; spills and partials have none.
class FluxionShard final : public ShardPolicy {
 public:
  // Of a shard that keeps the summaries of FluxionPolicy::needs(), if there are any; the shard outlives it.
  explicit FluxionShard(const KvShard* shard);

  void OnStored(uint32_t layer, TokenRange local, std::span<const std::byte> section) override {}
  FrameError CheckQuery(const ReadRequest& request) const override;
  void PlanRead(const ReadRequest& request, ReadPlan* plan) override;
  void PlanHead(const ReadRequest& request, uint32_t kv_head, ReadPlan* plan) override;
  void OnSampled(const ReadRequest& request, const ReadPlan& plan, const SampledPartials& partials) override;
  void WritePartial(const ReadRequest& request, const ReadPlan& plan, const AttentionPartialView& partial,
                    std::span<std::byte> section) override;

  // For tests.
  const HeadBudget& budget(uint32_t layer, uint32_t q_head) const;
  uint32_t block_tokens(uint32_t layer, uint32_t kv_head) const;

 private:
  struct Layer {
    Layer(uint32_t num_kv_heads, uint32_t num_q_heads) : budgets(num_q_heads), size_idx(num_kv_heads, 0) {}

    std::vector<HeadBudget> budgets;  // [query head held]
    std::vector<uint8_t> size_idx;    // [KV head held]: of policy_.block_sizes()
    uint64_t num_queries = 0;
    uint32_t error_number = 0;  // of the last measurement that moved the budgets
  };
  // One KV head of the query in work.
  struct Head {
    Head(const BlockSelectionKernel* kernel, uint32_t group_size, uint32_t max_blocks, uint32_t head_dim)
        : choice(kernel, group_size, max_blocks), q(size_t{group_size} * head_dim), bound_lse_ln(group_size) {}

    HeadChoice choice;
    std::vector<float> q;                                                // [row][head_dim]
    std::vector<std::array<float, kNumFluxionBlockSizes>> bound_lse_ln;  // [row]; NaN: not scored
    bool calibrates = false;  // it reads everything, and the bounds are known
  };

  const Layer& LayerOf(uint32_t layer) const { return layers_[layer - shard_->spec().layer_begin]; }
  Layer& LayerOf(uint32_t layer) { return layers_[layer - shard_->spec().layer_begin]; }
  bool IsCalibrated(const Layer& state, uint32_t kv_head) const;
  FluxionQueryForm FormOf(const ReadRequest& request) const;
  void ReadSection(const ReadRequest& request);
  void TakeErrors(uint32_t layer, const FluxionQuerySection& section);
  void CopyQ(const ReadRequest& request, uint32_t kv_head);
  // Scores the blocks of one size, by its index among those that there are.
  BlockQuery QueryOf(const ReadRequest& request, uint32_t kv_head, uint32_t size_idx) const;
  void Score(const ReadRequest& request, uint32_t kv_head, uint32_t size_idx);
  void ScoreAllSizes(const ReadRequest& request, uint32_t kv_head);
  // Each leaves every row's blocks in the head's choice.
  void ChooseCalibrated(const ReadRequest& request, uint32_t kv_head, uint32_t size_idx);
  void ChooseSizeAndBlocks(const ReadRequest& request, uint32_t kv_head);
  void ChoosePredicted(const ReadRequest& request, uint32_t kv_head);
  void ChooseOracle(const ReadRequest& request, uint32_t kv_head);
  void ChooseFixed(const ReadRequest& request, uint32_t kv_head);
  SizeCost CostOf(uint32_t size_idx) const;  // without what is read
  void MeasureContrasts(uint32_t layer, const ReadPlan& plan);
  void Calibrate(uint32_t layer, uint32_t kv_head, std::span<const float> lse_dense_ln);
  uint32_t first_q_head(uint32_t kv_head) const { return kv_head * shard_->spec().model.group_size(); }

  const KvShard* const shard_;
  const FluxionParams params_;
  const FluxionPolicy policy_;
  std::vector<const BlockSummaries*> summaries_;  // by block_sizes()
  std::vector<Layer> layers_;                     // [layer held]
  std::vector<Head> heads_;                       // [KV head held]
  std::optional<OracleChoice> oracle_;
  // Of the query in work; empty: it did not say.
  std::vector<float> resident_lse_ln_;    // [query head held]
  std::vector<float> resident_out_;       // [query head held][head_dim]
  std::vector<PredictedBudget> budgets_;  // [query head held]
  // Of a measured query, by query head held.
  struct Outputs {
    void Assign(ConstAttentionPartialView view) {
      out.assign(view.out.begin(), view.out.end());
      lse_ln.assign(view.lse_ln.begin(), view.lse_ln.end());
    }
    std::vector<float> out;
    std::vector<float> lse_ln;
  };
  Outputs read_, full_;
  std::vector<float> errors_;
};

}  // namespace tributary
