// HGCA on a node (policy/README.md): per layer and KV head which tokens of a shard are selected, their copies in the
// row cache (the paper's context cache), and what is still to be judged. policy/ decides, kv_store/ copies; this says
// when.
//
//   a block is stored with its MAW    its kept tokens join the selection
//   ... without                       the next query of the layer reads everything, its weights make the selection
//   an appended prompt                reads everything; after its last query its mean weights make the selection
//   a query, else                     reads the selection; with a limit on the caches its weights update the saliences
//
// Of a layer, all KV heads have judged the same tokens, from 0 on without a gap. A query that sees others reads
// everything, so that no visible token is left out without having been judged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cpu_attention_service/policy/shard_policy.h"
#include "kv_store/kv_shard.h"
#include "kv_store/row_cache.h"
#include "policy/hgca/head_selection.h"
#include "policy/hgca/hgca.h"
#include "policy/hgca/hgca_params.h"

namespace tributary {

// Thread-compatible.
class HgcaShard final : public ShardPolicy {
 public:
  // The shard's policy keeps a row cache; the shard outlives this.
  HgcaShard(const KvShard* shard, std::unique_ptr<RowCache> cache);

  uint64_t reserved_bytes() const override { return cache_->reserved_bytes(); }
  uint64_t cached_row_bytes() const override { return cache_->filled_bytes(); }
  const RowCache* row_cache() const override { return cache_.get(); }

  // Sections: policy/hgca/spill_section.h; queries and partials have none.
  FrameError CheckSpill(uint32_t num_tokens, std::span<const std::byte> section) const override;
  void OnStored(uint32_t layer, TokenRange local, std::span<const std::byte> section) override;
  void PlanRead(const ReadRequest& request, ReadPlan* plan) override;
  // KV heads that select anew do so on the executor's threads.
  void AfterAnswer(const ReadRequest& request, const ReadPlan& plan, ShardExecutor& executor) override;

  // The tokens that a head has selected, stripe-local; null for one that is always dense.
  const HeadSelection* selection(uint32_t layer, uint32_t kv_head) const;

 private:
  struct Maw {
    std::vector<float> values;  // [token][KV head held]
    uint64_t resident_tokens = 0;
    uint64_t num_tokens = 0;
  };
  struct Layer {
    explicit Layer(uint32_t num_kv_heads) : heads(num_kv_heads), sums(num_kv_heads) {}

    uint64_t judged_tokens = 0;
    bool has_sparse_heads = false;
    std::map<uint64_t, Maw> waiting;                  // by first token: beyond what is judged
    std::vector<std::optional<HeadSelection>> heads;  // nullopt: always dense
    // Weights of queries since the last selection, [KV head held][token]; empty unless under way.
    std::vector<std::vector<float>> sums;
    uint64_t num_queries = 0;
  };

  Layer& LayerOf(uint32_t layer) { return layers_[layer - shard_->spec().layer_begin]; }
  bool ReadsCache(uint32_t layer, uint32_t kv_head) const;
  void PlanDense(Layer& state, const ReadRequest& request, ReadPlan* plan);
  void PlanSparse(Layer& state, const ReadRequest& request, ReadPlan* plan);
  // Whether there was anything to judge.
  bool JudgeWaiting(uint32_t layer, uint64_t visible_end);
  void JudgeBlock(uint32_t layer, const Maw& maw, uint64_t first_row);
  void Reselect(uint32_t layer, ShardExecutor& executor);
  void ReselectHead(uint32_t layer, uint32_t kv_head, uint64_t num_tokens);
  void Distil(uint32_t layer, uint32_t kv_head);
  void FillCache(uint32_t layer, uint32_t kv_head);
  void ForgetSums(Layer& state);

  const KvShard* const shard_;
  const HgcaParams params_;
  const HgcaPolicy policy_;
  const std::unique_ptr<RowCache> cache_;
  std::vector<Layer> layers_;                    // [layer held]
  std::vector<std::vector<float>> row_weights_;  // [KV head held]: of the query in work
  std::vector<float> block_maw_;                 // scratch
};

}  // namespace tributary
