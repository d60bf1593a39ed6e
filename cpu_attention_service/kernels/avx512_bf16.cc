// Built with -mavx512f/bw/dq/vl/bf16/vnni/vbmi; called only where the CPU has them (kernels.cc).
#define TRIBUTARY_KERNEL_ISA avx512_bf16
#include "cpu_attention_service/kernels/vec_avx512.h"
// Need Vec.
#include "cpu_attention_service/kernels/decode_attention-inl.h"
#include "cpu_attention_service/kernels/prim_bf16_dot-inl.h"
#include "cpu_attention_service/kernels/prim_float-inl.h"
#include "cpu_attention_service/kernels/prim_int_dot-inl.h"
// Need the dot products above.
#include "cpu_attention_service/kernels/prim_fp8_dot-inl.h"
#include "cpu_attention_service/kernels/prim_int_values-inl.h"

namespace tributary {
namespace avx512_bf16 {
namespace {

const KPrimitive* KPrimitiveOf(KvStorage storage) {
  switch (storage) {
    case KvStorage::kF32:
      return &kFloatK<KvStorage::kF32>;
    case KvStorage::kBf16:
      return &kBf16DotK;
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

const VPrimitive* VPrimitiveOf(KvStorage storage) {
  switch (storage) {
    case KvStorage::kF32:
      return &kFloatV<KvStorage::kF32>;
    case KvStorage::kBf16:
      return &kBf16DotV;
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
}  // namespace avx512_bf16

void DecodeAttentionAvx512Bf16(const DecodeAttentionArgs& args) {
  avx512_bf16::DecodeAttention(args, avx512_bf16::KPrimitiveOf(args.layout->k_storage),
                               avx512_bf16::VPrimitiveOf(args.layout->v_storage));
}

}  // namespace tributary
