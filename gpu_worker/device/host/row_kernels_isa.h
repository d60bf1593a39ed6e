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
  float* max;  // [rows] of scale * q.k so far, -inf at first
  float* sum;  // [rows] of exp(scale * q.k - max) so far, 0 at first
  float* out;  // [rows][head_dim] so far; multiplied by exp(old max - new max)
  size_t head_dim;
};

struct RowKernelFunctions {
  void (*online_softmax)(const OnlineSoftmaxArgs& args);
  // gate[i] = silu(gate[i]) * up[i]
  void (*silu_mul)(float* gate, const float* up, size_t count);
  // gate[i] = gelu(gate[i]) * up[i], by its tanh form
  void (*gelu_mul)(float* gate, const float* up, size_t count);
};

// Constant-initialised: touching one runs no code that the machine may lack.
extern const RowKernelFunctions kRowKernelsBaseline;
extern const RowKernelFunctions kRowKernelsAvx2;
extern const RowKernelFunctions kRowKernelsAvx512;

}  // namespace tributary
