// KV out of the GPU, by copy engine on a stream of its own: blocks that leave their windows, and the layers of a
// prompt.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/device/cuda/runtime/cuda_context.h"
#include "gpu_worker/device/cuda/runtime/cuda_memory.h"
#include "gpu_worker/device/cuda/storage/cuda_resident.h"
#include "gpu_worker/device/device.h"

namespace tributary {

// All copies go through the context's copy stream, one after the other. Thread-compatible.
class CudaKvCopies {
 public:
  // Both outlive this.
  static absl::StatusOr<std::unique_ptr<CudaKvCopies>> Make(CudaContext* context, CudaResident* resident);
  // Waits for the copies, and unpins.
  ~CudaKvCopies();

  // These do what Device's functions of the same names do.
  CopyTicket ReadResident(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads, std::span<std::byte> k,
                          std::span<std::byte> v);
  bool CopyDone(CopyTicket ticket);
  void PinHostMemory(std::span<std::byte> memory);

  // Canonical rows in device memory, once `ready` has happened.
  struct Rows {
    const std::byte* k = nullptr;  // [num_tokens][num_kv_heads][head_dim]
    const std::byte* v = nullptr;
    uint32_t num_tokens = 0;
    DType dtype = DType::kUnset;
    cudaEvent_t ready = nullptr;
  };
  CopyTicket ReadRows(const Rows& rows, HeadRange heads, std::span<std::byte> k, std::span<std::byte> v);

  // What is queued on `stream` from now on waits for the copies that were started.
  void MakeWait(cudaStream_t stream);
  // The caller waits for the copies that were started.
  void AwaitAll();

  // Device memory that Make() takes.
  static constexpr uint64_t kStagingBytes = uint64_t{4} << 20;

 private:
  CudaKvCopies(CudaContext* context, CudaResident* resident) : context_(context), resident_(resident) {}
  cudaStream_t stream() const { return context_->copy_stream.get(); }
  // Copies at most kStagingBytes of K and V.
  void CopySlots(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads, std::byte* k, std::byte* v);
  // Marks the end of what was queued so far.
  CopyTicket MakeTicket();

  static constexpr CopyTicket kMaxPending = 512;

  CudaContext* const context_;
  CudaResident* const resident_;
  DeviceBuffer staging_;
  std::vector<CudaEvent> events_;  // [kMaxPending]; ticket t has events_[t % kMaxPending]
  CopyTicket started_ = 0;
  CopyTicket done_ = 0;
  std::vector<std::byte*> pinned_;
};

}  // namespace tributary
