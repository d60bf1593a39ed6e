#include "gpu_worker/device/cuda/kernels/gather_heads.h"

#include <random>

#include "tests/testutil/test_seed.h"
#include "tests/unit/gpu_worker/device/cuda/kernels/gpu_test.h"

namespace tributary {
namespace {

class GatherHeadsTest : public GpuTest {};

TEST_F(GatherHeadsTest, TokensComeBeforeHeads) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (const uint32_t vector_bytes : {2u, 20u, 32u, 256u, 512u}) {
    const uint32_t capacity = RandomInt(random, 5u, 90u);
    const uint32_t begin = RandomInt(random, 0u, capacity - 1);
    const uint32_t tokens = RandomInt(random, 1u, capacity - begin);
    const uint32_t heads = RandomInt(random, 1u, 9u);
    std::vector<std::byte> k(size_t{heads} * capacity * vector_bytes), v(k.size());
    for (std::byte& byte : k) byte = static_cast<std::byte>(random());
    for (std::byte& byte : v) byte = static_cast<std::byte>(random());
    const DeviceBuffer device_k = Upload(k), device_v = Upload(v);
    const size_t bytes = size_t{tokens} * heads * vector_bytes;
    const DeviceBuffer out_k = Poisoned(bytes), out_v = Poisoned(bytes);
    gpu::GatherHeadsArgs args;
    args.from[0] = device_k.data() + begin * vector_bytes;
    args.from[1] = device_v.data() + begin * vector_bytes;
    args.out[0] = out_k.data();
    args.out[1] = out_v.data();
    args.head_stride_bytes = size_t{capacity} * vector_bytes;
    args.vector_bytes = vector_bytes;
    args.num_tokens = tokens;
    args.num_heads = heads;
    ASSERT_EQ(gpu::GatherHeads(args, {}), cudaSuccess);
    const auto got_k = Download(out_k), got_v = Download(out_v);
    for (uint32_t token = 0; token < tokens; ++token) {
      for (uint32_t head = 0; head < heads; ++head) {
        const size_t from = (size_t{head} * capacity + begin + token) * vector_bytes;
        const size_t to = (size_t{token} * heads + head) * vector_bytes;
        ASSERT_EQ(std::memcmp(got_k.data() + to, k.data() + from, vector_bytes), 0) << vector_bytes;
        ASSERT_EQ(std::memcmp(got_v.data() + to, v.data() + from, vector_bytes), 0) << vector_bytes;
      }
    }
  }
}

}  // namespace
}  // namespace tributary
