// Attention of some query rows over some tiles of keys and values, in f32: the same running softmax for
// prefill (rows are query tokens, causal) and for decode (rows are the query heads of one KV head).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "attention/shape.h"
#include "base/dtype.h"
#include "gpu_worker/device/host/row_kernels.h"

namespace tributary {

// Scores of 128 query rows x 512 keys are 256 KiB: they, K and V of the tile stay in L2 between the
// two products.
inline constexpr size_t kQueryTileRows = 128;
inline constexpr size_t kKeyTileTokens = 512;

// What a model makes of q.k: softmax_scale * q.k, or with a cap soft_cap * tanh(softmax_scale * q.k / soft_cap).
struct ScoreRule {
  explicit ScoreRule(const ModelConfig& config)
      : softmax_scale(static_cast<float>(config.softmax_scale)),
        soft_cap(static_cast<float>(config.attention_soft_cap)) {}
  float softmax_scale;
  float soft_cap;  // 0: none
};

// The running softmax of up to `max_rows` query rows, with its scratch. One per thread.
class AttendState {
 public:
  AttendState(size_t max_rows, size_t head_dim);

  // Starts again with `rows` empty partials.
  void Reset(size_t rows);

  struct Tile {
    const float* k = nullptr;  // [tokens][ld]
    const float* v = nullptr;
    size_t ld = 0;
    size_t tokens = 0;                        // at most kKeyTileTokens
    ptrdiff_t first_row_visible = 0;          // row i sees the first first_row_visible + i; `tokens` = all
    ptrdiff_t first_row_hidden = kHidesNone;  // of them, it does not see the first first_row_hidden + i
  };
  // Folds a tile into every row. q: [rows][ld_q].
  void Attend(const RowKernels& kernels, const float* q, size_t ld_q, const ScoreRule& rule, const Tile& tile);

  // Keys and values of one KV head as they are stored, all of which every row sees.
  struct StoredTile {
    const std::byte* k = nullptr;  // [tokens][head_dim]
    const std::byte* v = nullptr;
    DType dtype = DType::kUnset;  // f32, bf16 or f16
    size_t tokens = 0;            // at most kKeyTileTokens
  };
  // The same in one pass over what is stored, without a product of the library: for few rows. A row's bits do not
  // depend on the others.
  void AttendStored(const RowKernels& kernels, const float* q, size_t ld_q, const ScoreRule& rule,
                    const StoredTile& tile);

  // The weights of the tile attended last: exp(score - maximum()[row]), [rows][kKeyTileTokens].
  std::span<const float> tile_weights() const { return std::span(scores_).first(rows_ * kKeyTileTokens); }
  // The maximum of the scores so far, by row.
  std::span<const float> maximum() const { return std::span(max_).first(rows_); }

  // Every row's softmax has one more addend in its denominator, without a value; before Finish(), once.
  void AddSink(float sink_logit);

  // Writes the normalised out, [rows][ld_out], and lse_ln, [rows] (may be null); 0 and -inf for an
  // empty row.
  void Finish(float* out, size_t ld_out, float* lse_ln) const;

 private:
  size_t head_dim_;
  size_t rows_ = 0;
  std::vector<float> scores_;  // [max_rows][kKeyTileTokens]
  std::vector<float> out_;     // [max_rows][head_dim]
  std::vector<float> max_;     // [max_rows]
  std::vector<float> sum_;     // [max_rows]
};

}  // namespace tributary
