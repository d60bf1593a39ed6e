// What the GPU benchmarks share: the ceiling to divide by, timing of graphs, and the rows that tools/gpu_check reads.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "gpu_worker/device/cuda/runtime/cuda_memory.h"

namespace tributary {

// Ends the process with a message on an error: a benchmark has nothing better to do.
void CheckCuda(cudaError_t error, const char* what);
DeviceBuffer MakeDeviceBuffer(uint64_t bytes);
PinnedBuffer MakePinnedBuffer(uint64_t bytes);

// Fills with numbers of about unit size, bf16 (zeros would flatter the GPU).
void FillRandomBf16(DeviceBuffer& buffer, uint64_t seed);

// A plain kernel's read of 4 GiB of device memory, median of some runs, in 10^9 bytes per second.
double MeasureDeviceReadGbPerS();

// Captures what `record` launches on the stream, replays it, and returns the median time of a replay in microseconds.
double MedianGraphUs(cudaStream_t stream, int replays, const std::function<void()>& record);

struct GpuBenchRow {
  std::string name;
  double value = 0;
  std::string unit;
  std::optional<double> ceiling = std::nullopt;
  std::string ceiling_name = {};
  std::optional<double> ratio = std::nullopt;
  std::string bar = {};
  std::optional<bool> ok = std::nullopt;
};
// A table, or with `json` the one line that tools/gpu_check reads.
void PrintRows(const std::vector<GpuBenchRow>& rows, bool json);

}  // namespace tributary
