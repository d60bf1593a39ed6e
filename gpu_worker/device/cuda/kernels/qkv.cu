#include "gpu_worker/device/cuda/kernels/qkv.h"

#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kMaxPairsPerLane = 4;  // head_dim 256: 128 pairs over 32 lanes

// The two elements of pair i of a head. Pairs behind those that turn are made of the elements behind those that do.
struct PairMap {
  uint32_t half;
  RopePairs pairs;
  __device__ uint32_t Low(uint32_t i) const {
    if (i >= pairs.count) return pairs.count + i;
    return pairs.neighbours ? 2 * i : i;
  }
  __device__ uint32_t High(uint32_t i) const {
    if (i >= pairs.count) return half + i;
    return pairs.neighbours ? 2 * i + 1 : pairs.count + i;
  }
};

// One head of one row, in the registers of a warp: lane l has the pairs i = l + 32 j.
struct HeadPairs {
  float low[kMaxPairsPerLane];
  float high[kMaxPairsPerLane];
};

template <typename T>
__device__ HeadPairs LoadPairs(const T* from, const PairMap& map, uint32_t lane) {
  HeadPairs x;
#pragma unroll
  for (uint32_t j = 0; j < kMaxPairsPerLane; ++j) {
    const uint32_t i = lane + j * kWarpSize;
    x.low[j] = i < map.half ? ToF32(from[map.Low(i)]) : 0.0f;
    x.high[j] = i < map.half ? ToF32(from[map.High(i)]) : 0.0f;
  }
  return x;
}

__device__ PairMap MapOf(const QkvInput& in) { return {in.geometry.head_dim / 2, in.pairs}; }

__device__ HeadPairs LoadHead(const QkvInput& in, size_t begin, uint32_t lane) {
  const PairMap map = MapOf(in);
  if (in.dtype == DType::kF32) {
    return LoadPairs(static_cast<const float*>(in.qkv) + begin, map, lane);
  }
  if (in.dtype == DType::kBf16) {
    return LoadPairs(static_cast<const __nv_bfloat16*>(in.qkv) + begin, map, lane);
  }
  return LoadPairs(static_cast<const __half*>(in.qkv) + begin, map, lane);
}

__device__ void NormaliseHead(const float* weight, float eps, const PairMap& map, uint32_t lane, HeadPairs& x) {
  float squares = 0;
#pragma unroll
  for (uint32_t j = 0; j < kMaxPairsPerLane; ++j) {
    squares += x.low[j] * x.low[j] + x.high[j] * x.high[j];
  }
  const float mean = WarpSum(squares) / static_cast<float>(2 * map.half);
  const float factor = 1.0f / sqrtf(mean + eps);
#pragma unroll
  for (uint32_t j = 0; j < kMaxPairsPerLane; ++j) {
    const uint32_t i = lane + j * kWarpSize;
    if (i >= map.half) continue;
    x.low[j] *= factor * weight[map.Low(i)];
    x.high[j] *= factor * weight[map.High(i)];
  }
}

// cos[j], sin[j] of the lane's pairs.
struct Angles {
  float cos[kMaxPairsPerLane];
  float sin[kMaxPairsPerLane];
};

__device__ Angles LoadAngles(const QkvInput& in, uint32_t row, uint32_t lane) {
  const uint32_t count = in.pairs.count;
  Angles angles;
#pragma unroll
  for (uint32_t j = 0; j < kMaxPairsPerLane; ++j) {
    const uint32_t i = lane + j * kWarpSize;
    const bool there = i < count && in.cos != nullptr;
    angles.cos[j] = there ? in.cos[size_t{row} * count + i] : 1.0f;
    angles.sin[j] = there ? in.sin[size_t{row} * count + i] : 0.0f;
  }
  return angles;
}

__device__ void RotateHead(const Angles& angles, HeadPairs& x) {
#pragma unroll
  for (uint32_t j = 0; j < kMaxPairsPerLane; ++j) {
    const float a = x.low[j], b = x.high[j];
    x.low[j] = a * angles.cos[j] - b * angles.sin[j];
    x.high[j] = b * angles.cos[j] + a * angles.sin[j];
  }
}

// Calls store(element of the head, value).
template <typename Store>
__device__ void StoreHead(const HeadPairs& x, const PairMap& map, uint32_t lane, const Store& store) {
#pragma unroll
  for (uint32_t j = 0; j < kMaxPairsPerLane; ++j) {
    const uint32_t i = lane + j * kWarpSize;
    if (i >= map.half) continue;
    store(map.Low(i), x.low[j]);
    store(map.High(i), x.high[j]);
  }
}

// Heads are counted over q, k and v.
__device__ HeadPairs FinishHead(const QkvInput& in, uint32_t row, uint32_t head, uint32_t lane) {
  const KvGeometry& g = in.geometry;
  const PairMap map = MapOf(in);
  const uint32_t num_rotated = g.num_q_heads + g.num_kv_heads;
  const uint32_t num_heads = num_rotated + g.num_kv_heads;
  // All loads before the first use: one trip to memory.
  HeadPairs x = LoadHead(in, (size_t{row} * num_heads + head) * g.head_dim, lane);
  const Angles angles = LoadAngles(in, row, lane);
  if (in.bias != nullptr) {
    const HeadPairs bias = LoadPairs(in.bias + size_t{head} * g.head_dim, map, lane);
#pragma unroll
    for (uint32_t j = 0; j < kMaxPairsPerLane; ++j) {
      x.low[j] += bias.low[j];
      x.high[j] += bias.high[j];
    }
  }
  if (head >= num_rotated) return x;
  const float* norm = head < g.num_q_heads ? in.q_norm : in.k_norm;
  if (norm != nullptr) NormaliseHead(norm, in.eps, map, lane, x);
  RotateHead(angles, x);
  return x;
}

__device__ float RoundTo(DType dtype, float x) {
  if (dtype == DType::kBf16) return ToF32(FromF32<__nv_bfloat16>(x));
  if (dtype == DType::kF16) return ToF32(FromF32<__half>(x));
  return x;
}

__device__ void StoreDecodeHead(const FinishQkvArgs& args, const DecodeRowDesc& row, uint32_t r, uint32_t head,
                                uint32_t lane, const HeadPairs& x) {
  const KvGeometry& g = args.input.geometry;
  const PairMap map = MapOf(args.input);
  if (head < g.num_q_heads) {
    const size_t begin = (size_t{r} * g.num_q_heads + head) * g.head_dim;
    StoreHead(x, map, lane, [&](uint32_t i, float exact) {
      const float value = args.round_q ? RoundTo(row.kv_dtype, exact) : exact;
      args.q[begin + i] = value;
      if (args.host_q != nullptr) args.host_q[begin + i] = value;
    });
    return;
  }
  if (row.region == nullptr) return;
  const uint32_t kv = head - g.num_q_heads;
  const size_t begin =
      KvHeadOffset(row, g, args.layer, kv / g.num_kv_heads, kv % g.num_kv_heads) + size_t{row.append_slot} * g.head_dim;
  StoreHead(x, map, lane, [&](uint32_t i, float value) { StoreAs(row.region, row.kv_dtype, begin + i, value); });
}

__global__ void FinishQkvKernel(const FinishQkvArgs args) {
  LetSuccessorStart();
  const DecodeRowDesc row = args.rows[blockIdx.y];
  WaitForPredecessor();
  const KvGeometry& g = args.input.geometry;
  const uint32_t lane = threadIdx.x % kWarpSize;
  const uint32_t head = blockIdx.x * kWarps + threadIdx.x / kWarpSize;
  const uint32_t r = blockIdx.y;
  if (head < g.num_q_heads + 2 * g.num_kv_heads) {
    StoreDecodeHead(args, row, r, head, lane, FinishHead(args.input, r, head, lane));
  }
  RingAfterLastBlock(args.ring, gridDim.x * gridDim.y);
}

__global__ void FinishQkvPrefillKernel(const FinishQkvPrefillArgs args) {
  BeginKernel();
  const KvGeometry& g = args.input.geometry;
  const uint32_t lane = threadIdx.x % kWarpSize;
  const uint32_t head = blockIdx.y * kWarps + threadIdx.x / kWarpSize;
  const size_t row = blockIdx.x;
  if (head >= g.num_q_heads + 2 * g.num_kv_heads) return;
  const bool is_q = head < g.num_q_heads;
  const uint32_t kv = head - g.num_q_heads;
  void* out = is_q ? args.q : kv < g.num_kv_heads ? args.k : args.v;
  if (out == nullptr) return;
  const HeadPairs x = FinishHead(args.input, blockIdx.x, head, lane);
  const size_t begin =
      is_q ? (row * g.num_q_heads + head) * g.head_dim : (row * g.num_kv_heads + kv % g.num_kv_heads) * g.head_dim;
  const DType dtype = is_q ? args.q_dtype : args.kv_dtype;
  StoreHead(x, MapOf(args.input), lane, [&](uint32_t i, float value) { StoreAs(out, dtype, begin + i, value); });
}

uint32_t HeadBlocks(const KvGeometry& g) { return CeilDiv(g.num_q_heads + 2 * g.num_kv_heads, kWarps); }

bool Serves(const QkvInput& in) {
  const bool rotates = in.cos != nullptr;
  return gpu::Serves(in.geometry) && in.num_rows != 0 && IsFloatDType(in.dtype) && rotates == (in.sin != nullptr) &&
         in.pairs.count <= in.geometry.head_dim / 2 && (!rotates || in.pairs.count != 0);
}

}  // namespace

cudaError_t FinishQkv(const FinishQkvArgs& args, const Launch& launch) {
  const bool rings = args.ring.flag != nullptr;
  if (!Serves(args.input) || args.input.num_rows > kMaxDecodeRows ||
      (rings && (args.ring.value == nullptr || args.ring.arrivals == nullptr))) {
    return cudaErrorInvalidValue;
  }
  // Bytes: rows x (q + 2 kv) x head_dim x 4 read; q x 4 to the device and again over the bus, 2 kv in the KV dtype
  // written. Ceiling: a launch and a trip over the bus, not bytes.
  return LaunchKernel(launch, FinishQkvKernel, dim3(HeadBlocks(args.input.geometry), args.input.num_rows),
                      kWarps * kWarpSize, 0, args);
}

cudaError_t FinishQkvPrefill(const FinishQkvPrefillArgs& args, const Launch& launch) {
  const bool has_kv = args.k != nullptr || args.v != nullptr;
  if (!Serves(args.input) || (args.q != nullptr && !IsFloatDType(args.q_dtype)) ||
      (has_kv && !IsFloatDType(args.kv_dtype))) {
    return cudaErrorInvalidValue;
  }
  // Bytes: tokens x (q + 2 kv) x head_dim x (input dtype read + its output dtype written). Ceiling: device memory.
  return LaunchKernel(launch, FinishQkvPrefillKernel, dim3(args.input.num_rows, HeadBlocks(args.input.geometry)),
                      kWarps * kWarpSize, 0, args);
}

}  // namespace tributary::gpu
