// The plain kernel: no ISA flags, any machine.
#define TRIBUTARY_KERNEL_ISA scalar
#include "cpu_attention_service/kernels/vec_scalar.h"
// Needs Vec.
#include "cpu_attention_service/kernels/widened_attention-inl.h"

namespace tributary {

void DecodeAttentionScalar(const DecodeAttentionArgs& args) { scalar::DecodeWidened(args); }

}  // namespace tributary
