// The primitives of the ISAs with dot products of bf16 and int8 (AVX-512 BF16, VNNI, VBMI). Included once per ISA
// source, after its Vec and with TRIBUTARY_KERNEL_ISA defined.
#include "cpu_attention_service/kernels/decode_attention-inl.h"
#include "cpu_attention_service/kernels/prim_bf16_dot-inl.h"
#include "cpu_attention_service/kernels/prim_float-inl.h"
#include "cpu_attention_service/kernels/prim_int_dot-inl.h"
// Need the dot products above.
#include "cpu_attention_service/kernels/prim_fp8_dot-inl.h"
#include "cpu_attention_service/kernels/prim_int_values-inl.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// With fewer rows bf16 is widened to f32, K and V, and nothing is rounded. That computes as long as the dot products of
// a split q, in less code, and reads at 0.95 to 0.98 of the ceiling instead of 0.86 to 0.98 (AMD Zen 5). On the CPUs
// that have AMX, vdpbf16ps takes as long as two fused multiply-adds of f32, of which two start per cycle (Sapphire
// Rapids, group 4, 16 threads: the kernels avx512 and avx512_bf16 read at 0.89 and 0.78 of the ceiling).
constexpr uint32_t kManyRows = 8;
inline bool HasFewRows(const DecodeAttentionArgs& args) { return args.n_q * args.group_size < kManyRows; }

const KPrimitive* DotKPrimitiveOf(KvStorage storage, bool few_rows) {
  switch (storage) {
    case KvStorage::kF32:
      return &kFloatK<KvStorage::kF32>;
    case KvStorage::kBf16:
      return few_rows ? &kFloatK<KvStorage::kBf16> : &kBf16DotK;
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

const VPrimitive* DotVPrimitiveOf(KvStorage storage, bool few_rows) {
  switch (storage) {
    case KvStorage::kF32:
      return &kFloatV<KvStorage::kF32>;
    case KvStorage::kBf16:
      return few_rows ? &kFloatV<KvStorage::kBf16> : &kBf16DotV;
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
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
