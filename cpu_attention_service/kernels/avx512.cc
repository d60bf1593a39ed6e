// Built with -mavx512f/bw/dq/vl; called only where the CPU has them (kernels.cc).
#define TRIBUTARY_KERNEL_ISA avx512
#include "cpu_attention_service/kernels/vec_avx512.h"
// Need Vec.
#include "cpu_attention_service/kernels/decode_attention-inl.h"
#include "cpu_attention_service/kernels/prim_float-inl.h"
#include "cpu_attention_service/kernels/prim_quant-inl.h"

namespace tributary {
namespace avx512 {
namespace {

const KPrimitive* KPrimitiveOf(KvStorage storage) {
  switch (storage) {
    case KvStorage::kF32:
      return &kFloatK<KvStorage::kF32>;
    case KvStorage::kBf16:
      return &kFloatK<KvStorage::kBf16>;
    case KvStorage::kF16:
      return &kFloatK<KvStorage::kF16>;
    case KvStorage::kInt8:
      return &kWidenedK<KvStorage::kInt8>;
    case KvStorage::kInt4:
      return &kWidenedK<KvStorage::kInt4>;
    case KvStorage::kFp8E4m3:
      return &kWidenedK<KvStorage::kFp8E4m3>;
    default:
      return nullptr;
  }
}

const VPrimitive* VPrimitiveOf(KvStorage storage) {
  switch (storage) {
    case KvStorage::kF32:
      return &kFloatV<KvStorage::kF32>;
    case KvStorage::kBf16:
      return &kFloatV<KvStorage::kBf16>;
    case KvStorage::kF16:
      return &kFloatV<KvStorage::kF16>;
    case KvStorage::kInt8:
      return &kWidenedV<KvStorage::kInt8>;
    case KvStorage::kInt4:
      return &kWidenedV<KvStorage::kInt4>;
    case KvStorage::kFp8E4m3:
      return &kWidenedV<KvStorage::kFp8E4m3>;
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace avx512

void DecodeAttentionAvx512(const DecodeAttentionArgs& args) {
  avx512::DecodeAttention(args, avx512::KPrimitiveOf(args.layout->k_storage),
                          avx512::VPrimitiveOf(args.layout->v_storage));
}

}  // namespace tributary
