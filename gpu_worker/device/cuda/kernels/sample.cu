// One block for each row. A cut (top-k, top-p) and the draw itself are the same search: of the tokens in falling order
// of likelihood, the first at which the running sum of integer weights exceeds a target. The search is a radix descent
// over the bits of a key that orders tokens by logit, then by token id.
#include "gpu_worker/device/cuda/kernels/sample.h"

#include <cfloat>

#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kThreads = 1024;
constexpr uint32_t kWarps = kThreads / kWarpSize;
constexpr uint32_t kTokenBits = 24;
constexpr uint32_t kTokenMask = (1u << kTokenBits) - 1;
constexpr uint32_t kBins = 256;
constexpr double kWeightOne = 1099511627776.0;  // 2^40

struct Shared {
  uint64_t sums[kBins];
  uint32_t counts[kBins];
  uint64_t warp_u64[kWarps];
  double warp_f64[kWarps];
  float warp_max[kWarps];
  uint32_t warp_token[kWarps];
  uint64_t key;     // of a finished search
  uint64_t prefix;  // of a running one
  uint64_t target;
  uint32_t count;
};

struct Row {
  const float* logits;
  uint32_t vocab_size;
  float best_logit;
  double log2e_over_temperature;

  // Falling keys: higher logits first, then lower tokens.
  __device__ uint64_t KeyByLogit(uint32_t token) const {
    const uint32_t bits = __float_as_uint(logits[token] + 0.0f);  // -0 becomes 0
    const uint32_t rising = (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
    return (uint64_t{rising} << kTokenBits) | (kTokenMask - token);
  }
  // e^((logit - best) / temperature) as an integer of kWeightOne. The exponent is cut in f64 into an integer and a
  // rest, so that the error is relative to the weight.
  __device__ uint64_t Weight(uint32_t token) const {
    const double x = (static_cast<double>(logits[token]) - best_logit) * log2e_over_temperature;
    if (!(x > -64.0)) return 0;
    const double whole = rint(x);
    const double fraction = exp2f(static_cast<float>(x - whole));
    return static_cast<uint64_t>(ldexp(fraction * kWeightOne, static_cast<int>(whole)));
  }
};

template <typename T>
__device__ T BlockSum(T value, T* scratch) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) scratch[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  T sum = 0;
  for (uint32_t w = 0; w < kWarps; ++w) sum += scratch[w];
  return sum;
}

// Calls visit(token, logit) for the thread's share of the row.
template <typename Visit>
__device__ void ForEachLogit(const float* logits, uint32_t vocab_size, const Visit& visit) {
  if (vocab_size % 4 == 0 && reinterpret_cast<uintptr_t>(logits) % 16 == 0) {
    const auto* const vectors = reinterpret_cast<const float4*>(logits);
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < vocab_size / 4; i += kThreads) {
      const float4 x = vectors[i];
      visit(4 * i, x.x);
      visit(4 * i + 1, x.y);
      visit(4 * i + 2, x.z);
      visit(4 * i + 3, x.w);
    }
  } else {
    for (uint32_t i = threadIdx.x; i < vocab_size; i += kThreads) visit(i, logits[i]);
  }
}

__device__ bool IsBetter(float a, uint32_t token_a, float b, uint32_t token_b) {
  return a > b || (a == b && token_a < token_b);
}

__device__ uint32_t ArgMax(const float* logits, uint32_t vocab_size, Shared& shared) {
  float best = -INFINITY;
  uint32_t token = vocab_size;  // nothing yet; a row of NaN or -inf alone gives token 0
  ForEachLogit(logits, vocab_size, [&](uint32_t i, float logit) {
    if (logit > best) {
      best = logit;
      token = i;
    }
  });
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, best, offset);
    const uint32_t other_token = __shfl_xor_sync(kAllLanes, token, offset);
    if (IsBetter(other, other_token, best, token)) {
      best = other;
      token = other_token;
    }
  }
  if (threadIdx.x % kWarpSize == 0) {
    shared.warp_max[threadIdx.x / kWarpSize] = best;
    shared.warp_token[threadIdx.x / kWarpSize] = token;
  }
  __syncthreads();
  for (uint32_t w = 0; w < kWarps; ++w) {
    if (IsBetter(shared.warp_max[w], shared.warp_token[w], best, token)) {
      best = shared.warp_max[w];
      token = shared.warp_token[w];
    }
  }
  return token == vocab_size ? 0 : token;
}

// Adds (weight, 1) to a bin, after the lanes of the warp that hit the same bin have put theirs together: most logits
// share their high bits. All lanes of the warp call it; those with `in` false add nothing.
__device__ void AddToBin(bool in, uint32_t bin, uint64_t weight, Shared& shared) {
  const unsigned peers = __match_any_sync(kAllLanes, in ? bin : kBins);
  if (!in) return;
  constexpr uint32_t kHalfBits = 21;  // 32 halves of a weight of at most 2^40 fit into 32 bits
  const uint32_t low = __reduce_add_sync(peers, static_cast<uint32_t>(weight & ((1u << kHalfBits) - 1)));
  const uint32_t high = __reduce_add_sync(peers, static_cast<uint32_t>(weight >> kHalfBits));
  if (threadIdx.x % kWarpSize != static_cast<uint32_t>(__ffs(static_cast<int>(peers)) - 1)) return;
  atomicAdd(reinterpret_cast<unsigned long long*>(&shared.sums[bin]),
            static_cast<unsigned long long>((uint64_t{high} << kHalfBits) + low));
  atomicAdd(&shared.counts[bin], static_cast<uint32_t>(__popc(peers)));
}

// One thread: the bin in which the running sum, from the highest bin down, first exceeds the target.
__device__ void ChooseBin(Shared& shared) {
  uint64_t before = 0;
  uint32_t chosen = kBins;
  for (uint32_t bin = kBins; bin-- > 0;) {
    if (shared.counts[bin] == 0) continue;
    chosen = bin;  // the last one with anything, should rounding ask for more than there is
    if (before + shared.sums[bin] > shared.target) break;
    before += shared.sums[bin];
  }
  shared.count = chosen == kBins ? 0 : shared.counts[chosen];
  shared.target = shared.target > before ? shared.target - before : 0;
  shared.prefix = (shared.prefix << 8) | (chosen % kBins);
}

// Of the tokens with key(token) >= floor in falling order of key: the key of the first at which the running sum of
// weight(token) exceeds target; of the last one if none does. Keys have key_bits bits, and differ.
template <typename Key, typename Weight>
__device__ uint64_t Search(uint32_t vocab_size, uint32_t key_bits, uint64_t floor, uint64_t target, const Key& key,
                           const Weight& weight, Shared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.prefix = 0;
    shared.target = target;
  }
  const uint32_t rounded = (vocab_size + kThreads - 1) / kThreads * kThreads;
  uint32_t shift = key_bits;
  do {
    shift -= 8;
    for (uint32_t bin = threadIdx.x; bin < kBins; bin += kThreads) {
      shared.sums[bin] = 0;
      shared.counts[bin] = 0;
    }
    __syncthreads();
    const uint64_t prefix = shared.prefix;
    for (uint32_t token = threadIdx.x; token < rounded; token += kThreads) {
      const uint64_t k = token < vocab_size ? key(token) : 0;
      const bool in = token < vocab_size && k >= floor && k >> (shift + 8) == prefix;
      AddToBin(in, static_cast<uint32_t>(k >> shift) % kBins, in ? weight(token) : 0, shared);
    }
    __syncthreads();
    if (threadIdx.x == 0) ChooseBin(shared);
    __syncthreads();
  } while (shift > 0 && shared.count > 1);
  if (shift == 0) return shared.prefix;
  for (uint32_t token = threadIdx.x; token < vocab_size; token += kThreads) {
    const uint64_t k = key(token);
    if (k >= floor && k >> shift == shared.prefix) shared.key = k;
  }
  __syncthreads();
  return shared.key;
}

__device__ inline uint64_t RotateLeft(uint64_t x, int by) { return (x << by) | (x >> (64 - by)); }

__device__ void SipRound(uint64_t (&v)[4]) {
  v[0] += v[1];
  v[1] = RotateLeft(v[1], 13) ^ v[0];
  v[0] = RotateLeft(v[0], 32);
  v[2] += v[3];
  v[3] = RotateLeft(v[3], 16) ^ v[2];
  v[0] += v[3];
  v[3] = RotateLeft(v[3], 21) ^ v[0];
  v[2] += v[1];
  v[1] = RotateLeft(v[1], 17) ^ v[2];
  v[2] = RotateLeft(v[2], 32);
}

// SipHash24 (base/siphash.h) of the 8 bytes of `position`, under the key of gpu_worker/sequence/sampler.cc, as a number
// in [0, 1).
__device__ double UniformAt(uint64_t seed, uint64_t position) {
  const uint64_t k0 = seed, k1 = 0x74726962;
  uint64_t v[4] = {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du, k0 ^ 0x6c7967656e657261u,
                   k1 ^ 0x7465646279746573u};
  const uint64_t words[2] = {position, uint64_t{8} << 56};
  for (const uint64_t word : words) {
    v[3] ^= word;
    SipRound(v);
    SipRound(v);
    v[0] ^= word;
  }
  v[2] ^= 0xff;
  for (int i = 0; i < 4; ++i) SipRound(v);
  return static_cast<double>((v[0] ^ v[1] ^ v[2] ^ v[3]) >> 11) * 0x1p-53;
}

template <typename Key>
__device__ uint64_t SumOfWeights(const Row& row, uint64_t floor, const Key& key, Shared& shared) {
  uint64_t sum = 0;
  for (uint32_t token = threadIdx.x; token < row.vocab_size; token += kThreads) {
    if (key(token) >= floor) sum += row.Weight(token);
  }
  return BlockSum(sum, shared.warp_u64);
}

__device__ uint32_t Draw(const Row& row, const SampleRowDesc& params, Shared& shared) {
  constexpr uint32_t kKeyBits = 32 + kTokenBits;
  const auto by_logit = [&](uint32_t token) { return row.KeyByLogit(token); };
  const auto by_token = [](uint32_t token) { return uint64_t{kTokenMask - token}; };
  const auto weight = [&](uint32_t token) { return row.Weight(token); };
  uint64_t floor = 0;
  if (params.top_k != 0 && params.top_k < row.vocab_size) {
    floor = Search(
        row.vocab_size, kKeyBits, floor, params.top_k - 1, by_logit, [](uint32_t) { return uint64_t{1}; }, shared);
  }
  if (params.top_p > 0 && params.top_p < 1) {
    const uint64_t total = SumOfWeights(row, floor, by_logit, shared);
    const auto least = static_cast<uint64_t>(ceil(double{params.top_p} * static_cast<double>(total)));
    floor = Search(row.vocab_size, kKeyBits, floor, least == 0 ? 0 : least - 1, by_logit, weight, shared);
  }
  const uint64_t total = SumOfWeights(row, floor, by_logit, shared);
  const auto target = static_cast<uint64_t>(UniformAt(params.seed, params.position) * static_cast<double>(total));
  // Without a cut the host's order is that of the tokens.
  const uint64_t key = floor == 0 ? Search(row.vocab_size, kTokenBits, 0, target, by_token, weight, shared)
                                  : Search(row.vocab_size, kKeyBits, floor, target, by_logit, weight, shared);
  return kTokenMask - static_cast<uint32_t>(key & kTokenMask);
}

__global__ void __launch_bounds__(kThreads) SampleKernel(const SampleArgs args) {
  BeginKernel();
  __shared__ Shared shared;
  const SampleRowDesc params = args.rows[blockIdx.x];
  Row row;
  row.logits = args.logits + size_t{blockIdx.x} * args.vocab_size;
  row.vocab_size = args.vocab_size;
  const uint32_t best = ArgMax(row.logits, args.vocab_size, shared);
  row.best_logit = row.logits[best];
  double sum = 0;
  ForEachLogit(row.logits, args.vocab_size,
               [&](uint32_t, float logit) { sum += static_cast<double>(expf(logit - row.best_logit)); });
  sum = BlockSum(sum, shared.warp_f64);
  uint32_t token = best;
  if (params.temperature != 0 && params.top_k != 1) {
    row.log2e_over_temperature = 1.4426950408889634 / static_cast<double>(params.temperature);
    token = Draw(row, params, shared);
  }
  if (threadIdx.x != 0) return;
  token = min(token, args.vocab_size - 1);
  args.results[blockIdx.x].token = token;
  args.results[blockIdx.x].logprob = static_cast<double>(row.logits[token]) - row.best_logit - log(sum);
}

}  // namespace

cudaError_t Sample(const SampleArgs& args, const Launch& launch) {
  if (args.num_rows == 0 || args.vocab_size == 0 || args.vocab_size > (1u << kTokenBits)) {
    return cudaErrorInvalidValue;
  }
  // Bytes: rows x vocab x 4, read twice when greedy, up to some 20 times (from L2) with top_k or top_p. Ceiling: one
  // block per row: its loads under way, not memory.
  return LaunchKernel(launch, SampleKernel, dim3(args.num_rows), kThreads, 0, args);
}

}  // namespace tributary::gpu
