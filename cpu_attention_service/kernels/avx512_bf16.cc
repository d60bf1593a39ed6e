// Built with -mavx512f/bw/dq/vl/bf16/vnni/vbmi; called only where the CPU has them (kernels.cc).
#define TRIBUTARY_KERNEL_ISA avx512_bf16
#include "cpu_attention_service/kernels/vec_avx512.h"
// Needs Vec.
#include "cpu_attention_service/kernels/dot_attention-inl.h"

namespace tributary {

void DecodeAttentionAvx512Bf16(const DecodeAttentionArgs& args) {
  const bool few_rows = avx512_bf16::HasFewRows(args);
  avx512_bf16::DecodeAttention(args, avx512_bf16::DotKPrimitiveOf(args.layout->k_storage, few_rows),
                               avx512_bf16::DotVPrimitiveOf(args.layout->v_storage, few_rows));
}

}  // namespace tributary
