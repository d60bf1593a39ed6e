// What a sparse policy keeps of one shard on the node: per layer and KV head which tokens are selected, their copies in
// the context caches, and what is still to be judged. policy/ decides, kv_store/ copies; this says when.
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

#include "attention/token_range.h"
#include "cpu_attention_service/executor/shard_executor.h"
#include "kv_store/context_cache.h"
#include "kv_store/kv_shard.h"
#include "policy/hgca/head_selection.h"
#include "policy/kept_mass.h"
#include "policy/policy.h"

namespace tributary {

// What one query reads of a shard.
struct SelectionRead {
  // What the weights are for that `answer` asks for.
  enum class Weights : uint8_t {
    kNone,
    kUpdate,     // of cached tokens: their saliences
    kReselect,   // a new selection
    kAppend,     // part of the mean over an appended prompt
    kAppendEnd,  // the last part: a new selection
  };
  std::vector<HeadRead> answer;  // [KV head held]
  // Of a sampled step: what the answer does not read of a head that has a selection, everything or the selection. Else
  // kNothing.
  std::vector<HeadRead> sample;
  Weights weights = Weights::kNone;

  // Tokens that the answer of a head rests on, of those visible.
  uint64_t AttendedTokens(uint32_t kv_head, TokenRange local) const {
    const HeadRead& head = answer[kv_head];
    return head.source == HeadRead::Source::kShard ? local.size() : head.rows.size();
  }
};

// Thread-compatible.
class ShardSelection {
 public:
  // Of a shard whose policy keeps a context cache; the shard outlives it.
  ShardSelection(const KvShard* shard, std::unique_ptr<ContextCache> cache);

  // Tokens `local` of `layer` are stored, now or since before. `maw`: f32 [token][KV head held], unaligned, of a
  // softmax over `resident_tokens`; empty: none came. REQUIRES: layer held.
  void OnStored(uint32_t layer, TokenRange local, std::span<const std::byte> maw, uint64_t resident_tokens);

  // Whether a query that sees the tokens below `visible_end` has blocks to judge first, which takes its time.
  bool HasBlocksToJudge(uint32_t layer, uint64_t visible_end) const;

  // What a query of `layer` over the stored tokens `local` reads; flags as of QueryEntry. Valid until the next call of
  // the same layer, or OnStored().
  void Plan(uint32_t layer, TokenRange local, uint32_t flags, SelectionRead* read);

  // Of a sampled step, both attentions are done: lse_ln of the answer and of the sample, [n_q][num_q_heads held].
  // Writes the lse over everything, appends the selections' kept mass, per query head that has one, to `kept_mass`, and
  // decides which heads fall back to dense from the next query on.
  void OnSampled(uint32_t layer, const SelectionRead& read, std::span<const float> answer_lse_ln,
                 std::span<const float> sample_lse_ln, std::span<float> lse_dense_ln, std::vector<float>* kept_mass);

  // The weights that `read` asked for are there, of `n_q` query tokens. KV heads that select anew do so on the
  // executor's threads.
  void OnWeights(uint32_t layer, uint32_t n_q, const SelectionRead& read, ShardExecutor& executor);

  const ContextCache& cache() const { return *cache_; }
  GroupAggregate group_aggregate() const { return policy_->needs().group_aggregate; }
  // KV heads, over all layers, that read everything because their last sample kept too little.
  uint32_t num_fallback_heads() const { return num_fallback_heads_; }
  // The tokens that a head has selected, stripe-local; null for one that is always dense.
  const HeadSelection* selection(uint32_t layer, uint32_t kv_head) const;

 private:
  struct Maw {
    std::vector<float> values;  // [token][KV head held]
    uint64_t resident_tokens = 0;
    uint64_t num_tokens = 0;
  };
  struct Layer {
    explicit Layer(uint32_t num_kv_heads, float min_kept_mass)
        : sums(num_kv_heads), fallback(num_kv_heads, min_kept_mass) {}

    uint64_t judged_tokens = 0;
    bool has_sparse_heads = false;
    std::map<uint64_t, Maw> waiting;                  // by first token: beyond what is judged
    std::vector<std::optional<HeadSelection>> heads;  // nullopt: always dense
    // Weights of queries since the last selection, [KV head held][token]; empty unless under way.
    std::vector<std::vector<float>> sums;
    uint64_t num_queries = 0;
    DenseFallback fallback;
  };

  Layer& LayerOf(uint32_t layer) { return layers_[layer - shard_->spec().layer_begin]; }
  bool ReadsCache(uint32_t layer, uint32_t kv_head) const;
  void PlanDense(Layer& state, TokenRange local, uint32_t flags, SelectionRead* read);
  void PlanSparse(Layer& state, uint32_t layer, TokenRange local, SelectionRead* read);
  void JudgeWaiting(uint32_t layer, uint64_t visible_end);
  void JudgeBlock(uint32_t layer, const Maw& maw, uint64_t first_row);
  void Reselect(uint32_t layer, ShardExecutor& executor);
  void ReselectHead(uint32_t layer, uint32_t kv_head, uint64_t num_tokens);
  void Distil(uint32_t layer, uint32_t kv_head);
  void FillCache(uint32_t layer, uint32_t kv_head);
  void ForgetSums(Layer& state);

  const KvShard* const shard_;
  const std::unique_ptr<const AttentionPolicy> policy_;
  const std::unique_ptr<ContextCache> cache_;
  std::vector<Layer> layers_;                    // [layer held]
  std::vector<std::vector<float>> row_weights_;  // [KV head held]: of the query in work
  std::vector<float> block_maw_;                 // scratch
  uint32_t num_fallback_heads_ = 0;
};

}  // namespace tributary
