// Built with -mavx512f/bw/dq/vl; called only where the CPU has them (kernels.cc).
#define TRIBUTARY_KERNEL_ISA avx512
#include "cpu_attention_service/kernels/vec_avx512.h"
// Needs Vec.
#include "cpu_attention_service/kernels/row_attention-inl.h"

namespace tributary {

void RowAttentionAvx512(const RowAttentionArgs& args) { avx512::RowAttention(args); }

}  // namespace tributary
