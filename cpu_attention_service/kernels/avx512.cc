// Built with -mavx512f/bw/dq/vl; called only where the CPU has them (kernels.cc).
#define TRIBUTARY_KERNEL_ISA avx512
#include "cpu_attention_service/kernels/vec_avx512.h"
// Needs Vec.
#include "cpu_attention_service/kernels/widened_attention-inl.h"

namespace tributary {

void DecodeAttentionAvx512(const DecodeAttentionArgs& args) { avx512::DecodeWidened(args); }

}  // namespace tributary
