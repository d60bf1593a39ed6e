// Built with the flags of avx512_bf16.cc and -mamx-tile/bf16; called only where the CPU has them (kernels.cc).
#define TRIBUTARY_KERNEL_ISA amx
#include "cpu_attention_service/kernels/vec_avx512.h"
// Needs Vec.
#include "cpu_attention_service/kernels/dot_attention-inl.h"
// Needs the dot products above.
#include "cpu_attention_service/kernels/prim_bf16_amx-inl.h"

namespace tributary {
namespace amx {
namespace {

const KPrimitive* KPrimitiveOf(KvStorage storage, bool few_rows) {
  if (storage != KvStorage::kBf16 || few_rows) return DotKPrimitiveOf(storage, few_rows);
  return &kBf16TilesK;
}

const VPrimitive* VPrimitiveOf(KvStorage storage, bool few_rows) {
  if (storage != KvStorage::kBf16 || few_rows) return DotVPrimitiveOf(storage, few_rows);
  return &kBf16TilesV;
}

}  // namespace
}  // namespace amx

void DecodeAttentionAmx(const DecodeAttentionArgs& args) {
  static_assert(amx::kManyRows == amx::kAmxMinRows);
  const bool few_rows = amx::HasFewRows(args);
  amx::DecodeAttention(args, amx::KPrimitiveOf(args.layout->k_storage, few_rows),
                       amx::VPrimitiveOf(args.layout->v_storage, few_rows));
}

}  // namespace tributary
