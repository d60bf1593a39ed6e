#include "benchmarks/read_bandwidth.h"

#include <algorithm>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/clock.h"
#include "base/thread_pool.h"

namespace tributary {
namespace {

constexpr size_t kWordsPerThread = (256u << 20) / sizeof(uint64_t);

// Eight independent sums, so that the loop waits for memory and not for an adder.
uint64_t Sum(const uint64_t* words, size_t count) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= count; i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
  }
  uint64_t sum = 0;
  for (uint64_t lane : sums) sum += lane;
  return sum;
}

}  // namespace

double MeasureReadBandwidthGbPerS(int num_threads) {
  const RealClock clock;
  ThreadPool pool(num_threads, AllowedCpus());
  std::vector<AlignedBuffer<uint64_t>> buffers(static_cast<size_t>(num_threads));
  pool.Run(
      [&](int t) { buffers[static_cast<size_t>(t)] = AlignedBuffer<uint64_t>(kWordsPerThread); });
  std::vector<double> gb_per_s;
  std::vector<uint64_t> sums(static_cast<size_t>(num_threads));
  for (int round = 0; round < 15; ++round) {
    const int64_t begin_ns = clock.NowNs();
    pool.Run([&](int t) {
      const size_t i = static_cast<size_t>(t);
      sums[i] += Sum(buffers[i].data(), kWordsPerThread);
    });
    const int64_t ns = clock.NowNs() - begin_ns;
    gb_per_s.push_back(static_cast<double>(num_threads) * kWordsPerThread * sizeof(uint64_t) /
                       static_cast<double>(ns));
  }
  // The sums are zero; using them keeps the loop.
  if (std::count(sums.begin(), sums.end(), 1u) != 0) return 0;
  std::nth_element(gb_per_s.begin(), gb_per_s.begin() + 7, gb_per_s.end());
  return gb_per_s[7];
}

}  // namespace tributary
