#include "gpu_worker/device/cuda/kernels/matvec.h"

#include "gpu_worker/device/cuda/kernels/device_common.cuh"
#include "gpu_worker/device/cuda/kernels/tensor_core.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kThreads = kWarps * kWarpSize;
constexpr uint32_t kTileRows = 32;  // rows of W that a block multiplies at a time: two operands A

__device__ inline float Silu(float x) { return x / (1.0f + expf(-x)); }

// How far a warp reads ahead: kStages blocks of kSteps x 32 elements of each of the tile's rows. On Hopper this keeps
// some 190 KB of each multiprocessor's reads under way, and lets a kernel have that much before its predecessor has
// ended.
template <uint32_t kStagesOf, uint32_t kStepsOf>
struct Depth {
  static constexpr uint32_t kStages = kStagesOf;
  static constexpr uint32_t kSteps = kStepsOf;
  static constexpr uint32_t kBlockElements = kSteps * 32;
};
using DeepReads = Depth<3, 4>;
using ShallowReads = Depth<2, 2>;  // where a block may have less shared memory

// A warp's block of W as it was copied: [step][operand A][row g, g + 8] of 16 bytes for each lane.
template <typename Reads>
using WeightBlock = uint4[Reads::kSteps * 4][kWarpSize];

template <typename Reads, uint32_t kTiles>
struct Shared {
  WeightBlock<Reads> ring[kWarps][Reads::kStages];
  float sums[kWarps][kTiles][8][kWarpSize];  // [warp][rows of x][4 of each operand A][lane]
};

// Row of W that stands in row i (0 to 31) of a tile; clamped: what is beyond is computed and dropped.
template <MatVecEpilogue kEpilogue>
__device__ uint32_t WeightRow(const MatVecArgs& args, uint32_t tile, uint32_t i) {
  if (kEpilogue != MatVecEpilogue::kSiluMul) return min(tile * kTileRows + i, args.out - 1);
  // Of each 16 rows, eight are gate rows, and eight their up rows: a lane has both of an output.
  const uint32_t half = args.out / 2;
  return min(tile * (kTileRows / 2) + i / 16 * 8 + i % 8, half - 1) + (i % 16 < 8 ? 0 : half);
}

// Starts the copy of a block.
template <typename T, typename Reads, MatVecEpilogue kEpilogue>
__device__ void StartBlock(const MatVecArgs& args, uint32_t tile, uint32_t block, uint32_t lane,
                           WeightBlock<Reads>& to) {
  const T* weights = static_cast<const T*>(args.weights);
  const uint32_t element = block * Reads::kBlockElements + lane % 4 * 8;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    const T* row = weights + size_t{WeightRow<kEpilogue>(args, tile, lane / 4 + 8 * i)} * args.in;
#pragma unroll
    for (uint32_t s = 0; s < Reads::kSteps; ++s) {
      const uint32_t k = element + s * 32;
      const bool inside = k < args.in;
      CopyAsyncOrZero(&to[s * 4 + i][lane], row + (inside ? k : 0), inside);
    }
  }
}

// c[n][m] += operand m of the tile x rows 8n to 8n + 7 of x, over one block of elements.
template <typename T, typename Reads, uint32_t kTiles>
__device__ void Multiply(const MatVecArgs& args, const WeightBlock<Reads>& weights, uint32_t block, uint32_t lane,
                         float (&c)[kTiles][2][4]) {
  const T* x = static_cast<const T*>(args.x);
  uint4 b[kTiles][Reads::kSteps];
#pragma unroll
  for (uint32_t n = 0; n < kTiles; ++n) {
    const uint32_t row = n * 8 + lane / 4;
#pragma unroll
    for (uint32_t s = 0; s < Reads::kSteps; ++s) {
      const uint32_t k = block * Reads::kBlockElements + s * 32 + lane % 4 * 8;
      b[n][s] = row < args.rows && k < args.in ? *reinterpret_cast<const uint4*>(x + size_t{row} * args.in + k)
                                               : make_uint4(0, 0, 0, 0);
    }
  }
#pragma unroll
  for (uint32_t s = 0; s < Reads::kSteps; ++s) {
#pragma unroll
    for (uint32_t m = 0; m < 2; ++m) {
      const uint4 low = weights[s * 4 + 2 * m][lane], high = weights[s * 4 + 2 * m + 1][lane];
#pragma unroll
      for (uint32_t n = 0; n < kTiles; ++n) {
        Mma<T>(c[n][m], low.x, high.x, low.y, high.y, b[n][s].x, b[n][s].y);
        Mma<T>(c[n][m], low.z, high.z, low.w, high.w, b[n][s].z, b[n][s].w);
      }
    }
  }
}

template <MatVecEpilogue kEpilogue>
__device__ void StoreOutput(const MatVecArgs& args, uint32_t row, uint32_t o, uint32_t num_outputs, float value) {
  if (row >= args.rows || o >= num_outputs) return;
  if (args.bias != nullptr) value += args.bias[o];
  const size_t idx = size_t{row} * num_outputs + o;
  if (kEpilogue == MatVecEpilogue::kAddResidual) {
    static_cast<float*>(args.y)[idx] += value;
  } else {
    StoreAs(args.y, args.y_dtype, idx, value);
  }
}

template <uint32_t kTiles>
__device__ float SumOfWarps(const float (&sums)[kWarps][kTiles][8][kWarpSize], uint32_t n, uint32_t j, uint32_t lane) {
  float sum = 0;
#pragma unroll
  for (uint32_t w = 0; w < kWarps; ++w) sum += sums[w][n][j][lane];
  return sum;
}

// Adds the warps' sums in their order, and stores; warp j has number j of the 8 sums of a lane. Between two barriers.
template <uint32_t kTiles, MatVecEpilogue kEpilogue>
__device__ void FinishTile(const MatVecArgs& args, uint32_t tile, const float (&sums)[kWarps][kTiles][8][kWarpSize]) {
  static_assert(kWarps == 8);
  __syncthreads();
  const uint32_t lane = threadIdx.x % kWarpSize, j = threadIdx.x / kWarpSize;
  const uint32_t operand = j / 4;
#pragma unroll
  for (uint32_t n = 0; n < kTiles; ++n) {
    const uint32_t row = n * 8 + lane % 4 * 2 + j % 2;
    if (kEpilogue != MatVecEpilogue::kSiluMul) {
      const uint32_t o = tile * kTileRows + operand * 16 + lane / 4 + j % 4 / 2 * 8;
      StoreOutput<kEpilogue>(args, row, o, args.out, SumOfWarps<kTiles>(sums, n, j, lane));
    } else if (j % 4 < 2) {
      const float gate = SumOfWarps<kTiles>(sums, n, j, lane);
      const float up = SumOfWarps<kTiles>(sums, n, j + 2, lane);
      const uint32_t o = tile * (kTileRows / 2) + operand * 8 + lane / 4;
      StoreOutput<kEpilogue>(args, row, o, args.out / 2, Silu(gate) * up);
    }
  }
  __syncthreads();
}

// A block takes tiles in turn; its warps cut `in` among them. Each lane copies what it will multiply into shared memory
// of its own (cp.async), some blocks ahead and across tiles, too; the first ones before the previous kernel has ended.
template <typename T, typename Reads, uint32_t kTiles, MatVecEpilogue kEpilogue>
__global__ void __launch_bounds__(kThreads, 1) MatVecTensorKernel(const MatVecArgs args) {
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<Shared<Reads, kTiles>*>(memory);
  constexpr uint32_t kStages = Reads::kStages;
  const uint32_t warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const uint32_t outputs = kEpilogue == MatVecEpilogue::kSiluMul ? args.out / 2 : args.out;
  const uint32_t per_tile = kEpilogue == MatVecEpilogue::kSiluMul ? kTileRows / 2 : kTileRows;
  const uint32_t num_tiles = (outputs + per_tile - 1) / per_tile;
  const uint32_t num_blocks = (args.in + Reads::kBlockElements - 1) / Reads::kBlockElements;
  auto& ring = shared.ring[warp];
  uint32_t ahead_tile = warp < num_blocks ? blockIdx.x : num_tiles, ahead_block = warp;
  const auto start_next = [&](uint32_t stage) {
    if (ahead_tile < num_tiles) {
      StartBlock<T, Reads, kEpilogue>(args, ahead_tile, ahead_block, lane, ring[stage]);
      ahead_block += kWarps;
      if (ahead_block >= num_blocks) {
        ahead_block = warp;
        ahead_tile += gridDim.x;
      }
    }
    CommitCopies();
  };
  LetSuccessorStart();
#pragma unroll
  for (uint32_t s = 0; s + 1 < kStages; ++s) start_next(s);
  WaitForPredecessor();
  uint32_t stage = 0;
  for (uint32_t tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
    float c[kTiles][2][4] = {};
    for (uint32_t block = warp; block < num_blocks; block += kWarps) {
      start_next((stage + kStages - 1) % kStages);
      AwaitCopies<kStages - 1>();
      Multiply<T, Reads, kTiles>(args, ring[stage], block, lane, c);
      stage = (stage + 1) % kStages;
    }
#pragma unroll
    for (uint32_t n = 0; n < kTiles; ++n) {
#pragma unroll
      for (uint32_t j = 0; j < 8; ++j) shared.sums[warp][n][j][lane] = c[n][j / 4][j % 4];
    }
    FinishTile<kTiles, kEpilogue>(args, tile, shared.sums);
  }
  AwaitCopies<0>();
}

// Weights in f32: a warp for each output, in plain arithmetic.
constexpr uint32_t kPlainRows = 4;

__device__ void PlainDots(const float* weights, const float* x, uint32_t rows, uint32_t in, uint32_t lane,
                          float (&dots)[kPlainRows]) {
#pragma unroll
  for (uint32_t r = 0; r < kPlainRows; ++r) dots[r] = 0;
  for (uint32_t k = lane; k < in; k += kWarpSize) {
    const float w = weights[k];
#pragma unroll
    for (uint32_t r = 0; r < kPlainRows; ++r) {
      if (r < rows) dots[r] += w * x[size_t{r} * in + k];
    }
  }
#pragma unroll
  for (uint32_t r = 0; r < kPlainRows; ++r) dots[r] = WarpSum(dots[r]);
}

template <MatVecEpilogue kEpilogue>
__global__ void __launch_bounds__(kThreads) MatVecPlainKernel(const MatVecArgs args) {
  BeginKernel();
  const uint32_t lane = threadIdx.x % kWarpSize;
  const uint32_t o = blockIdx.x * kWarps + threadIdx.x / kWarpSize;
  const uint32_t outputs = kEpilogue == MatVecEpilogue::kSiluMul ? args.out / 2 : args.out;
  if (o >= outputs) return;
  const float* weights = static_cast<const float*>(args.weights);
  for (uint32_t begin = 0; begin < args.rows; begin += kPlainRows) {
    const float* x = static_cast<const float*>(args.x) + size_t{begin} * args.in;
    const uint32_t rows = min(kPlainRows, args.rows - begin);
    float dots[kPlainRows], ups[kPlainRows];
    PlainDots(weights + size_t{o} * args.in, x, rows, args.in, lane, dots);
    if (kEpilogue == MatVecEpilogue::kSiluMul) {
      PlainDots(weights + size_t{o + outputs} * args.in, x, rows, args.in, lane, ups);
    }
#pragma unroll
    for (uint32_t r = 0; r < kPlainRows; ++r) {
      if (lane != 0 || r >= rows) continue;
      const float y = kEpilogue == MatVecEpilogue::kSiluMul ? Silu(dots[r]) * ups[r] : dots[r];
      StoreOutput<kEpilogue>(args, begin + r, o, outputs, y);
    }
  }
}

template <typename T, typename Reads, uint32_t kTiles, MatVecEpilogue kEpilogue>
cudaError_t LaunchWithReads(const MatVecArgs& args, int num_sms, const Launch& launch) {
  const auto kernel = MatVecTensorKernel<T, Reads, kTiles, kEpilogue>;
  constexpr size_t kSharedBytes = sizeof(Shared<Reads, kTiles>);
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kSharedBytes));
  if (error != cudaSuccess) return error;
  const uint32_t num_tiles =
      kEpilogue == MatVecEpilogue::kSiluMul ? CeilDiv(args.out / 2, kTileRows / 2) : CeilDiv(args.out, kTileRows);
  const auto blocks = static_cast<uint32_t>(num_sms);
  // Bytes: out x in x 2 (W, once for up to 16 rows of x) + rows x (in x 2 + outputs x y). Ceiling: reading W from
  // device memory.
  return LaunchKernel(launch, kernel, dim3(blocks < num_tiles ? blocks : num_tiles), kThreads, kSharedBytes, args);
}

template <typename T, uint32_t kTiles, MatVecEpilogue kEpilogue>
cudaError_t LaunchTensor(const MatVecArgs& args, const Launch& launch) {
  int device = 0, num_sms = 0, max_bytes = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&max_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  if (sizeof(Shared<DeepReads, kTiles>) <= static_cast<size_t>(max_bytes)) {
    return LaunchWithReads<T, DeepReads, kTiles, kEpilogue>(args, num_sms, launch);
  }
  return LaunchWithReads<T, ShallowReads, kTiles, kEpilogue>(args, num_sms, launch);
}

template <MatVecEpilogue kEpilogue>
cudaError_t LaunchForDType(const MatVecArgs& args, const Launch& launch) {
  if (args.weight_dtype == DType::kF32) {
    const uint32_t outputs = kEpilogue == MatVecEpilogue::kSiluMul ? args.out / 2 : args.out;
    // Bytes: out x in x 4 for each kPlainRows rows of x. Ceiling: reading W from device memory.
    return LaunchKernel(launch, MatVecPlainKernel<kEpilogue>, dim3(CeilDiv(outputs, kWarps)), kThreads, 0, args);
  }
  if (args.weight_dtype == DType::kBf16) {
    return args.rows <= 8 ? LaunchTensor<__nv_bfloat16, 1, kEpilogue>(args, launch)
                          : LaunchTensor<__nv_bfloat16, 2, kEpilogue>(args, launch);
  }
  return args.rows <= 8 ? LaunchTensor<__half, 1, kEpilogue>(args, launch)
                        : LaunchTensor<__half, 2, kEpilogue>(args, launch);
}

}  // namespace

cudaError_t MatVec(const MatVecArgs& args, const Launch& launch) {
  const bool silu = args.epilogue == MatVecEpilogue::kSiluMul;
  const bool adds = args.epilogue == MatVecEpilogue::kAddResidual;
  if (args.rows == 0 || args.rows > kMaxMatVecRows || args.in == 0 || args.in % 8 != 0 || args.out == 0 ||
      !IsFloatDType(args.weight_dtype) || !IsFloatDType(args.y_dtype) ||
      (silu && (args.out % 2 != 0 || args.bias != nullptr)) || (adds && args.y_dtype != DType::kF32)) {
    return cudaErrorInvalidValue;
  }
  if (silu) return LaunchForDType<MatVecEpilogue::kSiluMul>(args, launch);
  if (adds) return LaunchForDType<MatVecEpilogue::kAddResidual>(args, launch);
  return LaunchForDType<MatVecEpilogue::kStore>(args, launch);
}

}  // namespace tributary::gpu
