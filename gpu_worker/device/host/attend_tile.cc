#include "gpu_worker/device/host/attend_tile.h"

#include <algorithm>
#include <cmath>

#include "attention/partial.h"
#include "base/check.h"
#include "gpu_worker/device/host/blas_library.h"

namespace tributary {

AttendState::AttendState(size_t max_rows, size_t head_dim)
    : head_dim_(head_dim),
      scores_(max_rows * kKeyTileTokens),
      out_(max_rows * head_dim),
      max_(max_rows),
      sum_(max_rows) {}

void AttendState::Reset(size_t rows) {
  TRIBUTARY_CHECK_LE(rows, max_.size());
  rows_ = rows;
  std::fill_n(out_.begin(), rows * head_dim_, 0.0f);
  std::fill_n(max_.begin(), rows, kEmptyLse);
  std::fill_n(sum_.begin(), rows, 0.0f);
}

void AttendState::Attend(const RowKernels& kernels, const float* q, size_t ld_q, const ScoreRule& rule,
                         const Tile& tile) {
  if (tile.tokens == 0) return;
  const auto rows = static_cast<blasint>(rows_);
  const auto tokens = static_cast<blasint>(tile.tokens);
  const auto head_dim = static_cast<blasint>(head_dim_);
  const auto ld = static_cast<blasint>(tile.ld);
  const auto ld_scores = static_cast<blasint>(kKeyTileTokens);
  const BlasLibrary& blas = BlasLibrary::Loaded();
  blas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, tokens, head_dim, 1.0f, q, static_cast<blasint>(ld_q),
             tile.k, ld, 0.0f, scores_.data(), ld_scores);
  kernels.online_softmax({.scores = scores_.data(),
                          .ld = kKeyTileTokens,
                          .rows = rows_,
                          .cols = tile.tokens,
                          .first_row_hidden = tile.first_row_hidden,
                          .first_row_visible = tile.first_row_visible,
                          .scale = rule.softmax_scale,
                          .soft_cap = rule.soft_cap,
                          .max = max_.data(),
                          .sum = sum_.data(),
                          .out = out_.data(),
                          .head_dim = head_dim_});
  blas.sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, head_dim, tokens, 1.0f, scores_.data(), ld_scores, tile.v,
             ld, 1.0f, out_.data(), head_dim);
}

void AttendState::AttendStored(const RowKernels& kernels, const float* q, size_t ld_q, const ScoreRule& rule,
                               const StoredTile& tile) {
  if (tile.tokens == 0) return;
  const StoredRowFunctions& stored = kernels.stored_as(tile.dtype);
  stored.mat_vec({.w = tile.k,
                  .scales = nullptr,
                  .out = tile.tokens,
                  .in = head_dim_,
                  .x = q,
                  .ld_x = ld_q,
                  .rows = rows_,
                  .y = scores_.data(),
                  .ld_y = kKeyTileTokens});
  kernels.online_softmax({.scores = scores_.data(),
                          .ld = kKeyTileTokens,
                          .rows = rows_,
                          .cols = tile.tokens,
                          .first_row_visible = static_cast<ptrdiff_t>(tile.tokens),
                          .scale = rule.softmax_scale,
                          .soft_cap = rule.soft_cap,
                          .max = max_.data(),
                          .sum = sum_.data(),
                          .out = out_.data(),
                          .head_dim = head_dim_});
  stored.weighted_sum({.v = tile.v,
                       .tokens = tile.tokens,
                       .dim = head_dim_,
                       .p = scores_.data(),
                       .ld_p = kKeyTileTokens,
                       .rows = rows_,
                       .out = out_.data()});
}

void AttendState::AddSink(float sink_logit) {
  for (size_t i = 0; i < rows_; ++i) {
    const float max = std::max(max_[i], sink_logit);
    if (max == kEmptyLse) continue;
    const float keep = std::exp(max_[i] - max);
    sum_[i] = sum_[i] * keep + std::exp(sink_logit - max);
    max_[i] = max;
    for (size_t d = 0; d < head_dim_; ++d) out_[i * head_dim_ + d] *= keep;
  }
}

void AttendState::Finish(float* out, size_t ld_out, float* lse_ln) const {
  for (size_t i = 0; i < rows_; ++i) {
    const float normaliser = sum_[i] == 0.0f ? 0.0f : 1.0f / sum_[i];
    for (size_t d = 0; d < head_dim_; ++d) out[i * ld_out + d] = out_[i * head_dim_ + d] * normaliser;
    if (lse_ln != nullptr) lse_ln[i] = sum_[i] == 0.0f ? kEmptyLse : max_[i] + std::log(sum_[i]);
  }
}

}  // namespace tributary
