// Attention of a decode step's rows over their resident tokens, shared out over the threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/device/host/attend_tile.h"
#include "gpu_worker/device/host/attended_weights.h"
#include "gpu_worker/device/host/resident_cache.h"
#include "gpu_worker/device/host/row_kernels.h"
#include "model/model_config.h"

namespace tributary {

// A row's context is cut into pieces at fixed tokens, which are merged in order: a row's results depend neither on its
// batch nor on the number of threads. Thread-compatible.
class ResidentAttention {
 public:
  ResidentAttention(const ModelConfig& config, const RowKernels& kernels, uint32_t max_batch, ResidentCache& cache,
                    ThreadPool& pool);

  // Scratch for the attention weights of a sequence whose facet wants them; Attend() allocates nothing then.
  void PrepareWeights(uint32_t capacity_tokens);

  struct Batch {
    uint32_t layer = 0;
    bool windowed = false;               // its attention sees a window only
    uint32_t shard_layer = 0;            // as facets know it
    std::span<const DecodeRow> rows;     // at most max_batch
    std::span<HostFacet* const> facets;  // by row; null: none
    std::span<const float> sink_logits;  // [num_q_heads] of the layer, or empty
    const float* q = nullptr;            // [rows][num_q_heads][head_dim]
    float* out = nullptr;                // likewise, normalised
    float* lse_ln = nullptr;             // [rows][num_q_heads]
  };
  // Writes out and lse_ln, which have the sinks in their denominators, and tells each row's facet of each KV head.
  void Attend(const Batch& batch);

 private:
  // Some tiles of a row's context, of one KV head.
  struct Item {
    uint32_t row_idx = 0;
    uint32_t kv_head = 0;
    uint32_t piece = 0;
  };
  struct Scratch {
    explicit Scratch(const AttentionShape& shape)
        : attend(shape.group_size(), shape.head_dim), weights(shape.group_size()) {}
    AttendState attend;
    AttendedWeights weights;  // for facets that want them
  };

  size_t PlanRow(const Batch& batch, uint32_t row_idx);
  void AttendItem(const Batch& batch, const Item& item, Scratch& scratch);
  void AttendPiece(const Batch& batch, const Item& item, Scratch& scratch, bool keeps_weights);
  // Merges the pieces and the sinks, and tells the facet, of the weights too if `scratch`, which holds them, is not
  // null.
  void FinishKvHead(const Batch& batch, uint32_t row_idx, uint32_t kv_head, Scratch* scratch);
  // Folds the pieces behind the first, which is in `out` and `lse_ln`, of query head `head` of the group.
  void MergePieces(uint32_t row_idx, size_t first_piece, size_t head, float* out, float* lse_ln);
  // Of a piece, one KV head's group.
  size_t PieceIdx(const Item& item) const;

  const AttentionShape shape_;
  const ScoreRule score_rule_;
  const RowKernels& kernels_;
  ResidentCache& cache_;
  ThreadPool& pool_;
  std::vector<Scratch> scratch_;  // by thread
  std::vector<Item> items_;
  std::vector<uint32_t> num_pieces_;       // by row
  std::vector<uint32_t> tiles_per_piece_;  // by row
  std::vector<float> piece_out_;           // [max_batch][num_kv_heads][kMaxPieces][group_size][head_dim]
  std::vector<float> piece_lse_ln_;        // [max_batch][num_kv_heads][kMaxPieces][group_size]
};

}  // namespace tributary
