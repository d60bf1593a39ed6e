#include "gpu_worker/device/cuda/runtime/cuda_memory.h"

#include <cstring>

#include "fmt/format.h"
#include "gpu_worker/device/cuda/runtime/cuda_status.h"

namespace tributary {

absl::StatusOr<DeviceBuffer> DeviceBuffer::Make(uint64_t bytes, const char* what) {
  DeviceBuffer buffer;
  if (bytes == 0) return buffer;
  void* data = nullptr;
  if (const cudaError_t error = cudaMalloc(&data, bytes); error != cudaSuccess) {
    cudaGetLastError();  // not sticky
    return StatusFromCuda(error, fmt::format("cudaMalloc of {} bytes for {}", bytes, what));
  }
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.bytes_ = bytes;
  return buffer;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) cudaFree(data_);
}

absl::StatusOr<PinnedBuffer> PinnedBuffer::Make(uint64_t bytes, const char* what) {
  PinnedBuffer buffer;
  if (bytes == 0) return buffer;
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocMapped | cudaHostAllocPortable);
  if (error != cudaSuccess) {
    cudaGetLastError();  // not sticky
    return StatusFromCuda(error, fmt::format("cudaHostAlloc of {} bytes for {}", bytes, what));
  }
  std::memset(data, 0, bytes);
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.bytes_ = bytes;
  return buffer;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

absl::StatusOr<CudaStream> CudaStream::Make(bool high_priority) {
  int lowest = 0, highest = 0;
  TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  CudaStream stream;
  TRIBUTARY_RETURN_IF_CUDA_ERROR(
      cudaStreamCreateWithPriority(&stream.stream_, cudaStreamNonBlocking, high_priority ? highest : lowest));
  return stream;
}

CudaStream::~CudaStream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::StatusOr<CudaEvent> CudaEvent::Make() {
  CudaEvent event;
  TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&event.event_, cudaEventDisableTiming));
  return event;
}

CudaEvent::~CudaEvent() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

}  // namespace tributary
