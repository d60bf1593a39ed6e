// Decode attention where every storage is widened to f32: the ISAs without dot products of narrow types. Included once
// per ISA source, after its Vec and with TRIBUTARY_KERNEL_ISA defined.
#include "cpu_attention_service/kernels/decode_attention-inl.h"
#include "cpu_attention_service/kernels/prim_float-inl.h"
#include "cpu_attention_service/kernels/prim_quant-inl.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
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

void DecodeWidened(const DecodeAttentionArgs& args) {
  DecodeAttention(args, KPrimitiveOf(args.layout->k_storage), VPrimitiveOf(args.layout->v_storage));
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
