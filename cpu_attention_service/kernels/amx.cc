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

// With fewer rows than tiles pay for, bf16 is widened to f32: on the CPUs that have AMX, vdpbf16ps takes as long as two
// fused multiply-adds of f32, of which two start per cycle (Sapphire Rapids, group 4, 16 threads: the kernels avx512 and
// avx512_bf16 read at 0.89 and 0.78 of the ceiling).
const KPrimitive* KPrimitiveOf(KvStorage storage, bool few_rows) {
  if (storage != KvStorage::kBf16) return DotKPrimitiveOf(storage);
  return few_rows ? &kFloatK<KvStorage::kBf16> : &kBf16TilesK;
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
