// Built with the flags of avx512_bf16.cc and -mamx-tile/bf16; called only where the CPU has them (kernels.cc).
#define TRIBUTARY_KERNEL_ISA amx
#include "cpu_attention_service/kernels/vec_avx512.h"
// Need Vec.
#include "cpu_attention_service/kernels/decode_attention-inl.h"
#include "cpu_attention_service/kernels/prim_bf16_dot-inl.h"
#include "cpu_attention_service/kernels/prim_float-inl.h"
#include "cpu_attention_service/kernels/prim_int_dot-inl.h"
// Need the dot products above.
#include "cpu_attention_service/kernels/prim_bf16_amx-inl.h"
#include "cpu_attention_service/kernels/prim_fp8_dot-inl.h"
#include "cpu_attention_service/kernels/prim_int_values-inl.h"

namespace tributary {
namespace amx {
namespace {

// With fewer rows than tiles pay for, bf16 is widened to f32: on the CPUs that have AMX, vdpbf16ps takes as long as two
// fused multiply-adds of f32, of which two start per cycle (Sapphire Rapids, group 4, 16 threads: 0.89 of the read ceiling
// against 0.78).
const KPrimitive* KPrimitiveOf(KvStorage storage, bool few_rows) {
  switch (storage) {
    case KvStorage::kF32:
      return &kFloatK<KvStorage::kF32>;
    case KvStorage::kBf16:
      return few_rows ? &kFloatK<KvStorage::kBf16> : &kBf16TilesK;
    case KvStorage::kF16:
      return &kFloatK<KvStorage::kF16>;
    case KvStorage::kInt8:
      return &kIntDotK<KvStorage::kInt8>;
    case KvStorage::kInt4:
      return &kIntDotK<KvStorage::kInt4>;
    case KvStorage::kFp8E4m3:
      return &kFp8DotK;
    default:
      return nullptr;
  }
}

const VPrimitive* VPrimitiveOf(KvStorage storage, bool few_rows) {
  switch (storage) {
    case KvStorage::kF32:
      return &kFloatV<KvStorage::kF32>;
    case KvStorage::kBf16:
      return few_rows ? &kFloatV<KvStorage::kBf16> : &kBf16TilesV;
    case KvStorage::kF16:
      return &kFloatV<KvStorage::kF16>;
    case KvStorage::kInt8:
      return &kIntDotV<KvStorage::kInt8>;
    case KvStorage::kInt4:
      return &kIntDotV<KvStorage::kInt4>;
    case KvStorage::kFp8E4m3:
      return &kFp8DotV;
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace amx

void DecodeAttentionAmx(const DecodeAttentionArgs& args) {
  const bool few_rows = args.n_q * args.group_size < amx::kAmxMinRows;
  amx::DecodeAttention(args, amx::KPrimitiveOf(args.layout->k_storage, few_rows),
                       amx::VPrimitiveOf(args.layout->v_storage, few_rows));
}

}  // namespace tributary
