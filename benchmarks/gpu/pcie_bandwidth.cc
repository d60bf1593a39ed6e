#include "benchmarks/gpu/pcie_bandwidth.h"

#include <algorithm>
#include <vector>

#include "base/clock.h"
#include "benchmarks/gpu/gpu_bench_support.h"

namespace tributary {

double MeasureHostToDeviceGbPerS() {
  constexpr uint64_t kBytes = uint64_t{1} << 30;
  constexpr int kCopies = 5;
  const RealClock clock;
  const PinnedBuffer from = MakePinnedBuffer(kBytes);
  const DeviceBuffer to = MakeDeviceBuffer(kBytes);
  std::vector<double> gb_per_s;
  for (int i = 0; i < kCopies; ++i) {
    const int64_t begin_ns = clock.NowNs();
    CheckCuda(cudaMemcpy(to.data(), from.data(), kBytes, cudaMemcpyHostToDevice), "a copy");
    CheckCuda(cudaDeviceSynchronize(), "a copy");
    gb_per_s.push_back(static_cast<double>(kBytes) / static_cast<double>(clock.NowNs() - begin_ns));
  }
  std::nth_element(gb_per_s.begin(), gb_per_s.begin() + kCopies / 2, gb_per_s.end());
  return gb_per_s[kCopies / 2];
}

}  // namespace tributary
