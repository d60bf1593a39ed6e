// The two 16-bit products of the tensor cores that the kernels use, as functions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace tributary::gpu {

// c += a b: mma.m16n8k16, a row-major [16][16], b column-major [16][8], f32 sums. Lane (g, t) = (lane / 4, lane % 4) holds
//   a0, a1: rows g, g + 8 at k = 2t, 2t + 1; a2, a3: the same rows at k = 2t + 8, 2t + 9
//   b0, b1: column g at k = 2t, 2t + 1 and 2t + 8, 2t + 9
//   c[0], c[1]: row g, columns 2t, 2t + 1; c[2], c[3]: row g + 8
template <typename T>
__device__ void Mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                    uint32_t b1);
template <>
__device__ inline void Mma<__nv_bfloat16>(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                          uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
template <>
__device__ inline void Mma<__half>(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                   uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Two numbers as the sum of two 16-bit ones each: `high` is the number rounded, `low` the rest.
template <typename T>
__device__ void SplitPair(float a, float b, uint32_t& high, uint32_t& low);
template <>
__device__ inline void SplitPair<__nv_bfloat16>(float a, float b, uint32_t& high, uint32_t& low) {
  const __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
  const __nv_bfloat162 l = __floats2bfloat162_rn(a - __low2float(h), b - __high2float(h));
  high = reinterpret_cast<const uint32_t&>(h);
  low = reinterpret_cast<const uint32_t&>(l);
}
template <>
__device__ inline void SplitPair<__half>(float a, float b, uint32_t& high, uint32_t& low) {
  const __half2 h = __floats2half2_rn(a, b);
  const __half2 l = __floats2half2_rn(a - __low2float(h), b - __high2float(h));
  high = reinterpret_cast<const uint32_t&>(h);
  low = reinterpret_cast<const uint32_t&>(l);
}

// Lane (g, t) gives row g, columns 2t, 2t + 1 of an 8x8 matrix, and gets row g, columns 2t, 2t + 1 of its transpose.
__device__ inline uint32_t Transpose8x8(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// For what is read once: it need not stay in L1.
__device__ inline uint4 LoadStreaming(const void* address) {
  uint4 x;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(address));
  return x;
}

}  // namespace tributary::gpu
