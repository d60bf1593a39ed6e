// What each instruction set's file of row kernels takes and gives: no function bodies, so that
// nothing compiled for a newer machine can end up in code that runs on an older one.
#pragma once

#include <cstddef>

namespace tributary {

// Before any column, whatever the row.
inline constexpr ptrdiff_t kHidesNone = -(ptrdiff_t{1} << 40);

// One tile of attention scores, folded into a running softmax. All memory is the caller's.
struct OnlineSoftmaxArgs {
  float* scores;  // [rows][ld]; in: q.k, out: exp(scale * q.k - max), 0 where a row does not see
                  // the column
  size_t ld;
  size_t rows;
  size_t cols;
  // Row i sees the columns [first_row_hidden + i, first_row_visible + i), cut to [0, cols).
  ptrdiff_t first_row_hidden = kHidesNone;
  ptrdiff_t first_row_visible;
  float scale;
  float soft_cap = 0;  // if not 0: a score is soft_cap * tanh(scale * q.k / soft_cap) in place of scale * q.k
  float* max;          // [rows] of scores so far, -inf at first
  float* sum;          // [rows] of exp(score - max) so far, 0 at first
  float* out;          // [rows][head_dim] so far; multiplied by exp(old max - new max)
  size_t head_dim;
};

// Inputs of a row that share a scale where rows are stored as int8.
inline constexpr size_t kInt8GroupInputs = 64;

// y[r][o] = w[o] . x[r] for `rows` rows of x that share one pass over w. Sums in f32, in an order that depends on `in`
// alone: neither on the other rows nor on which rows of w are multiplied in one call.
struct MatVecArgs {
  const void* w;        // [out][in] as stored; needs no alignment
  const float* scales;  // int8 alone: [out][ceil(in / kInt8GroupInputs)]
  size_t out;
  size_t in;
  const float* x;  // [rows][ld_x]
  size_t ld_x;
  size_t rows;
  float* y;  // [rows][ld_y]
  size_t ld_y;
};

// out[r] += sum over tokens of p[r][token] * v[token]: token after token, whatever the number of rows.
struct WeightedSumArgs {
  const void* v;  // [tokens][dim] as stored; needs no alignment
  size_t tokens;
  size_t dim;
  const float* p;  // [rows][ld_p]
  size_t ld_p;
  size_t rows;
  float* out;  // [rows][dim]
};

// out = w in f32, which is exact but for int8, whose values are code * scale, rounded once.
struct WidenArgs {
  const void* w;        // [rows][cols] as stored; needs no alignment
  const float* scales;  // as in MatVecArgs
  size_t rows;
  size_t cols;
  float* out;  // [rows][cols]
};

// What one way of storing rows needs. Functions that a type has no use for are null.
struct StoredRowFunctions {
  void (*mat_vec)(const MatVecArgs& args);
  void (*weighted_sum)(const WeightedSumArgs& args);
  void (*widen)(const WidenArgs& args);
};

struct RowKernelFunctions {
  void (*online_softmax)(const OnlineSoftmaxArgs& args);
  // gate[i] = silu(gate[i]) * up[i]
  void (*silu_mul)(float* gate, const float* up, size_t count);
  // gate[i] = gelu(gate[i]) * up[i], by its tanh form
  void (*gelu_mul)(float* gate, const float* up, size_t count);
  // gate[i] = g sigmoid(1.702 g) (u + 1), of g = min(gate[i], 7) and u = up[i] clamped to [-7, 7]
  void (*clamped_swiglu)(float* gate, const float* up, size_t count);
  StoredRowFunctions f32, bf16, f16, int8;
};

// Constant-initialised: touching one runs no code that the machine may lack.
extern const RowKernelFunctions kRowKernelsBaseline;
extern const RowKernelFunctions kRowKernelsAvx2;
extern const RowKernelFunctions kRowKernelsAvx512;

}  // namespace tributary
