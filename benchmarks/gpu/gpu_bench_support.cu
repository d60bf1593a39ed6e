#include "benchmarks/gpu/gpu_bench_support.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace tributary {
namespace {

constexpr uint64_t kReadBytes = uint64_t{4} << 30;
constexpr int kReadRuns = 9;

__global__ void ReadKernel(const uint4* memory, uint64_t count, uint32_t* sink) {
  uint32_t sum = 0;
  const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += 4 * stride) {
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
      const uint64_t idx = i + j * stride;
      if (idx >= count) continue;
      const uint4 x = __ldcs(memory + idx);
      sum += x.x ^ x.y ^ x.z ^ x.w;
    }
  }
  if (sum == 0x12345678u) *sink = sum;  // keeps the reads
}

// Four bytes: two bf16 numbers between 0.5 and 2 of either sign, from a hash of the index.
__global__ void FillKernel(uint32_t* memory, uint64_t count, uint64_t seed) {
  const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    uint64_t h = (i + seed) * 0x9e3779b97f4a7c15u;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    h ^= h >> 32;
    memory[i] = (static_cast<uint32_t>(h) & 0x80ff80ffu) | 0x3f003f00u;
  }
}

}  // namespace

void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

DeviceBuffer MakeDeviceBuffer(uint64_t bytes) {
  auto buffer = DeviceBuffer::Make(bytes, "the benchmark");
  if (!buffer.ok()) {
    std::fprintf(stderr, "%s\n", buffer.status().ToString().c_str());
    std::exit(1);
  }
  return std::move(*buffer);
}

PinnedBuffer MakePinnedBuffer(uint64_t bytes) {
  auto buffer = PinnedBuffer::Make(bytes, "the benchmark");
  if (!buffer.ok()) {
    std::fprintf(stderr, "%s\n", buffer.status().ToString().c_str());
    std::exit(1);
  }
  return std::move(*buffer);
}

void FillRandomBf16(DeviceBuffer& buffer, uint64_t seed) {
  FillKernel<<<1024, 256>>>(buffer.as<uint32_t>(), buffer.bytes() / 4, seed);
  CheckCuda(cudaDeviceSynchronize(), "filling memory");
}

double MeasureDeviceReadGbPerS() {
  DeviceBuffer memory = MakeDeviceBuffer(kReadBytes);
  DeviceBuffer sink = MakeDeviceBuffer(4);
  FillRandomBf16(memory, 1);
  auto stream = CudaStream::Make(false);
  if (!stream.ok()) std::exit(1);
  const double us = MedianGraphUs(stream->get(), kReadRuns, [&] {
    ReadKernel<<<132 * 16, 512, 0, stream->get()>>>(memory.as<uint4>(), kReadBytes / 16, sink.as<uint32_t>());
  });
  return static_cast<double>(kReadBytes) / us / 1e3;
}

double MedianGraphUs(cudaStream_t stream, int replays, const std::function<void()>& record) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin of capture");
  record();
  CheckCuda(cudaStreamEndCapture(stream, &graph), "end of capture");
  CheckCuda(cudaGraphInstantiate(&executable, graph, 0), "making the graph");
  cudaEvent_t begin, end;
  CheckCuda(cudaEventCreate(&begin), "event");
  CheckCuda(cudaEventCreate(&end), "event");
  std::vector<float> times_ms;
  constexpr int kWarmUps = 3;
  for (int i = 0; i < replays + kWarmUps; ++i) {
    CheckCuda(cudaEventRecord(begin, stream), "event");
    CheckCuda(cudaGraphLaunch(executable, stream), "graph launch");
    CheckCuda(cudaEventRecord(end, stream), "event");
    CheckCuda(cudaEventSynchronize(end), "graph");
    float ms = 0;
    CheckCuda(cudaEventElapsedTime(&ms, begin, end), "event");
    if (i >= kWarmUps) times_ms.push_back(ms);
  }
  CheckCuda(cudaEventDestroy(begin), "event");
  CheckCuda(cudaEventDestroy(end), "event");
  CheckCuda(cudaGraphExecDestroy(executable), "graph");
  CheckCuda(cudaGraphDestroy(graph), "graph");
  std::nth_element(times_ms.begin(), times_ms.begin() + times_ms.size() / 2, times_ms.end());
  return times_ms[times_ms.size() / 2] * 1e3;
}

void PrintRows(const std::vector<GpuBenchRow>& rows, bool json) {
  if (json) std::printf("{\"rows\": [");
  for (size_t i = 0; i < rows.size(); ++i) {
    const GpuBenchRow& row = rows[i];
    if (!json) {
      std::printf("%-48s %10.4g %-6s", row.name.c_str(), row.value, row.unit.c_str());
      if (row.ratio)
        std::printf(" %3.0f %% of %.4g %s", 100 * *row.ratio, row.ceiling.value_or(0), row.ceiling_name.c_str());
      std::printf(" %s%s\n", row.bar.c_str(), !row.ok ? "" : *row.ok ? " ok" : " FAILED");
      continue;
    }
    std::printf("%s{\"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"", i == 0 ? "" : ", ", row.name.c_str(),
                row.value, row.unit.c_str());
    if (row.ceiling)
      std::printf(", \"ceiling\": %.6g, \"ceiling_name\": \"%s\"", *row.ceiling, row.ceiling_name.c_str());
    if (row.ratio) std::printf(", \"ratio\": %.4g", *row.ratio);
    if (!row.bar.empty()) std::printf(", \"bar\": \"%s\"", row.bar.c_str());
    if (row.ok) std::printf(", \"ok\": %s", *row.ok ? "true" : "false");
    std::printf("}");
  }
  if (json) std::printf("]}\n");
}

}  // namespace tributary
