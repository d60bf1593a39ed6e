#include "gpu_worker/device/cuda/kernels/attend_plan.cuh"
#include "gpu_worker/device/cuda/kernels/device_common.cuh"
#include "gpu_worker/device/cuda/kernels/matvec.h"
#include "gpu_worker/device/cuda/kernels/tensor_core.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kThreads = kWarps * kWarpSize;
constexpr uint32_t kTileRows = 16;  // rows of W that a block multiplies at a time
constexpr uint32_t kSteps =
    4;  // of 32 elements: a warp's share, 256 contiguous bytes of each of 16 rows
constexpr uint32_t kBlockElements = kSteps * 32;

__device__ inline uint4 LoadWeights(const void* address) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(address));
  return x;
}

__device__ inline float Silu(float x) { return x / (1.0f + expf(-x)); }

// Row of W that stands in row i (0 to 15) of a tile; clamped: what is beyond is computed and dropped.
template <MatVecEpilogue kEpilogue>
__device__ uint32_t WeightRow(const MatVecArgs& args, uint32_t tile, uint32_t i) {
  if (kEpilogue != MatVecEpilogue::kSiluMul) return min(tile * kTileRows + i, args.out - 1);
  const uint32_t half = args.out / 2;  // eight gate rows, then their up rows
  return min(tile * 8 + i % 8, half - 1) + (i < 8 ? 0 : half);
}

// A warp's share of a tile: operand A of the products. Lane (g, t): 16 bytes of rows g and g + 8 for each step.
struct WeightBlock {
  uint4 w[kSteps][2];
};

template <typename T, MatVecEpilogue kEpilogue>
__device__ void LoadBlock(const MatVecArgs& args, uint32_t tile, uint32_t block, uint32_t lane,
                          WeightBlock& out) {
  const T* weights = static_cast<const T*>(args.weights);
  const uint32_t element = block * kBlockElements + lane % 4 * 8;
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    const T* row = weights + size_t{WeightRow<kEpilogue>(args, tile, lane / 4 + 8 * i)} * args.in;
#pragma unroll
    for (uint32_t s = 0; s < kSteps; ++s) {
      const uint32_t k = element + s * 32;
      out.w[s][i] = k < args.in ? LoadWeights(row + k) : make_uint4(0, 0, 0, 0);
    }
  }
}

// c[n] += tile x rows 8n to 8n + 7 of x, over one block of elements.
template <typename T, uint32_t kTiles>
__device__ void Multiply(const MatVecArgs& args, const WeightBlock& block, uint32_t block_idx,
                         uint32_t lane, float (&c)[kTiles][4]) {
  const T* x = static_cast<const T*>(args.x);
  uint4 b[kTiles][kSteps];
#pragma unroll
  for (uint32_t n = 0; n < kTiles; ++n) {
    const uint32_t row = n * 8 + lane / 4;
#pragma unroll
    for (uint32_t s = 0; s < kSteps; ++s) {
      const uint32_t k = block_idx * kBlockElements + s * 32 + lane % 4 * 8;
      b[n][s] = row < args.rows && k < args.in
                    ? *reinterpret_cast<const uint4*>(x + size_t{row} * args.in + k)
                    : make_uint4(0, 0, 0, 0);
    }
  }
#pragma unroll
  for (uint32_t s = 0; s < kSteps; ++s) {
    const uint4 low = block.w[s][0], high = block.w[s][1];
#pragma unroll
    for (uint32_t n = 0; n < kTiles; ++n) {
      Mma<T>(c[n], low.x, high.x, low.y, high.y, b[n][s].x, b[n][s].y);
      Mma<T>(c[n], low.z, high.z, low.w, high.w, b[n][s].z, b[n][s].w);
    }
  }
}

template <MatVecEpilogue kEpilogue>
__device__ void StoreOutput(const MatVecArgs& args, uint32_t row, uint32_t o, uint32_t num_outputs,
                            float value) {
  if (row >= args.rows || o >= num_outputs) return;
  if (args.bias != nullptr) value += args.bias[o];
  const size_t idx = size_t{row} * num_outputs + o;
  if (kEpilogue == MatVecEpilogue::kAddResidual) {
    static_cast<float*>(args.y)[idx] += value;
  } else {
    StoreAs(args.y, args.y_dtype, idx, value);
  }
}

// Adds the warps' sums in their order, and stores. Begins with a barrier, so that `sums` may have been written just now.
template <uint32_t kTiles, MatVecEpilogue kEpilogue>
__device__ void FinishTile(const MatVecArgs& args, uint32_t tile,
                           const float (&sums)[kWarps][kTiles][4][kWarpSize]) {
  __syncthreads();
  const uint32_t lane = threadIdx.x % kWarpSize, j = threadIdx.x / kWarpSize % 4;
  for (uint32_t n = threadIdx.x / 128; n < kTiles; n += kThreads / 128) {
    const uint32_t row = n * 8 + lane % 4 * 2 + j % 2;
    float sum = 0;
#pragma unroll
    for (uint32_t w = 0; w < kWarps; ++w) sum += sums[w][n][j][lane];
    if (kEpilogue != MatVecEpilogue::kSiluMul) {
      const uint32_t o = tile * kTileRows + lane / 4 + j / 2 * 8;
      StoreOutput<kEpilogue>(args, row, o, args.out, sum);
    } else if (j < 2) {
      float up = 0;
#pragma unroll
      for (uint32_t w = 0; w < kWarps; ++w) up += sums[w][n][j + 2][lane];
      StoreOutput<kEpilogue>(args, row, tile * 8 + lane / 4, args.out / 2, Silu(sum) * up);
    }
  }
  __syncthreads();
}

// A block takes tiles of 16 rows in turn; its warps cut `in` among them. The next block of weights is on its way while
// one is multiplied, across tiles, too; the first one even before the previous kernel has ended.
template <typename T, uint32_t kTiles, MatVecEpilogue kEpilogue>
__global__ void __launch_bounds__(kThreads, 2) MatVecTensorKernel(const MatVecArgs args) {
  __shared__ float sums[kWarps][kTiles][4][kWarpSize];
  const uint32_t warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const uint32_t outputs_per_tile = kEpilogue == MatVecEpilogue::kSiluMul ? 8 : kTileRows;
  const uint32_t outputs = kEpilogue == MatVecEpilogue::kSiluMul ? args.out / 2 : args.out;
  const uint32_t num_tiles = (outputs + outputs_per_tile - 1) / outputs_per_tile;
  const uint32_t num_blocks = (args.in + kBlockElements - 1) / kBlockElements;
  WeightBlock current, next;
  if (warp < num_blocks) LoadBlock<T, kEpilogue>(args, blockIdx.x, warp, lane, current);
  BeginKernel();
  for (uint32_t tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
    float c[kTiles][4] = {};
    for (uint32_t block = warp; block < num_blocks; block += kWarps) {
      const bool last = block + kWarps >= num_blocks;
      const uint32_t next_tile = last ? tile + gridDim.x : tile;
      if (next_tile < num_tiles) {
        LoadBlock<T, kEpilogue>(args, next_tile, last ? warp : block + kWarps, lane, next);
      }
      Multiply<T, kTiles>(args, current, block, lane, c);
      current = next;
    }
#pragma unroll
    for (uint32_t n = 0; n < kTiles; ++n) {
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) sums[warp][n][j][lane] = c[n][j];
    }
    FinishTile<kTiles, kEpilogue>(args, tile, sums);
  }
}

// Weights in f32: a warp for each output, in plain arithmetic.
constexpr uint32_t kPlainRows = 4;

__device__ void PlainDots(const float* weights, const float* x, uint32_t rows, uint32_t in,
                          uint32_t lane, float (&dots)[kPlainRows]) {
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

template <typename T, uint32_t kTiles, MatVecEpilogue kEpilogue>
cudaError_t LaunchTensor(const MatVecArgs& args, const Launch& launch) {
  const auto kernel = MatVecTensorKernel<T, kTiles, kEpilogue>;
  uint32_t blocks = 0;
  if (const cudaError_t error = ResidentBlocks(kernel, kThreads, 0, &blocks);
      error != cudaSuccess) {
    return error;
  }
  const uint32_t num_tiles = kEpilogue == MatVecEpilogue::kSiluMul ? CeilDiv(args.out / 2, 8)
                                                                   : CeilDiv(args.out, kTileRows);
  return LaunchKernel(launch, kernel, dim3(blocks < num_tiles ? blocks : num_tiles), kThreads, 0,
                      args);
}

template <MatVecEpilogue kEpilogue>
cudaError_t LaunchForDType(const MatVecArgs& args, const Launch& launch) {
  if (args.weight_dtype == DType::kF32) {
    const uint32_t outputs = kEpilogue == MatVecEpilogue::kSiluMul ? args.out / 2 : args.out;
    return LaunchKernel(launch, MatVecPlainKernel<kEpilogue>, dim3(CeilDiv(outputs, kWarps)),
                        kThreads, 0, args);
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
  if (args.rows == 0 || args.rows > kMaxMatVecRows || args.in == 0 || args.in % 8 != 0 ||
      args.out == 0 || !IsFloatDType(args.weight_dtype) || !IsFloatDType(args.y_dtype) ||
      (silu && (args.out % 2 != 0 || args.bias != nullptr)) ||
      (adds && args.y_dtype != DType::kF32)) {
    return cudaErrorInvalidValue;
  }
  if (silu) return LaunchForDType<MatVecEpilogue::kSiluMul>(args, launch);
  if (adds) return LaunchForDType<MatVecEpilogue::kAddResidual>(args, launch);
  return LaunchForDType<MatVecEpilogue::kStore>(args, launch);
}

}  // namespace tributary::gpu
