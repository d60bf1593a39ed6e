// Built with -mavx2 -mfma -mf16c; called only where the CPU has them (kernels.cc).
#define TRIBUTARY_KERNEL_ISA avx2
#include "cpu_attention_service/kernels/vec_avx2.h"
// Needs Vec.
#include "cpu_attention_service/kernels/widened_attention-inl.h"

namespace tributary {

void DecodeAttentionAvx2(const DecodeAttentionArgs& args) { avx2::DecodeWidened(args); }

}  // namespace tributary
