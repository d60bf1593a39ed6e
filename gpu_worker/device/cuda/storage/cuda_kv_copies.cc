#include "gpu_worker/device/cuda/storage/cuda_kv_copies.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "gpu_worker/device/cuda/kernels/gather_heads.h"
#include "gpu_worker/device/cuda/runtime/cuda_status.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<CudaKvCopies>> CudaKvCopies::Make(CudaContext* context, CudaResident* resident) {
  std::unique_ptr<CudaKvCopies> copies(new CudaKvCopies(context, resident));
  TRIBUTARY_ASSIGN_OR_RETURN(copies->staging_, DeviceBuffer::Make(kStagingBytes, "the staging of spills"));
  for (CopyTicket i = 0; i < kMaxPending; ++i) {
    TRIBUTARY_ASSIGN_OR_RETURN(CudaEvent event, CudaEvent::Make());
    copies->events_.push_back(std::move(event));
  }
  TRIBUTARY_RETURN_IF_CUDA_ERROR(gpu::PreloadGatherHeads());
  return copies;
}

CudaKvCopies::~CudaKvCopies() {
  cudaStreamSynchronize(stream());
  for (std::byte* memory : pinned_) cudaHostUnregister(memory);
}

void CudaKvCopies::PinHostMemory(std::span<std::byte> memory) {
  if (memory.empty() || !context_->sticky.ok()) return;
  if (std::find(pinned_.begin(), pinned_.end(), memory.data()) != pinned_.end()) return;
  const cudaError_t error = cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterPortable);
  if (error == cudaSuccess) {
    pinned_.push_back(memory.data());
    return;
  }
  cudaGetLastError();  // copies work without it, slower
  LOG_WARN("{} bytes of frame memory cannot be pinned for the GPU ({}): spills will be slower", memory.size(),
           cudaGetErrorName(error));
}

CopyTicket CudaKvCopies::ReadResident(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads,
                                      std::span<std::byte> k, std::span<std::byte> v) {
  const ResidentRegions& regions = resident_->regions();
  const AttentionShape& shape = context_->config.attention;
  TRIBUTARY_CHECK_LE(slots.begin, slots.end);
  TRIBUTARY_CHECK_LE(slots.end, regions.capacity_tokens(id));
  TRIBUTARY_CHECK_LE(heads.begin, heads.end);
  TRIBUTARY_CHECK_LE(heads.end, shape.num_kv_heads);
  const size_t token_bytes = (heads.end - heads.begin) * size_t{shape.head_dim} * DTypeBytes(regions.dtype(id));
  TRIBUTARY_CHECK_EQ(k.size(), (slots.end - slots.begin) * token_bytes);
  TRIBUTARY_CHECK_EQ(v.size(), k.size());
  if (k.empty() || !context_->sticky.ok()) return started_;
  const auto max_tokens = static_cast<uint32_t>(kStagingBytes / 2 / token_bytes);
  TRIBUTARY_CHECK_GT(max_tokens, 0u);
  size_t offset = 0;
  for (uint32_t begin = slots.begin; begin < slots.end;) {
    const uint32_t end = std::min(slots.end, begin + max_tokens);
    CopySlots(id, layer, {begin, end}, heads, k.data() + offset, v.data() + offset);
    offset += (end - begin) * token_bytes;
    begin = end;
  }
  return MakeTicket();
}

void CudaKvCopies::CopySlots(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads, std::byte* k,
                             std::byte* v) {
  const ResidentRegions& regions = resident_->regions();
  gpu::GatherHeadsArgs args;
  args.vector_bytes = static_cast<uint32_t>(context_->config.attention.head_dim * DTypeBytes(regions.dtype(id)));
  args.head_stride_bytes = size_t{regions.capacity_tokens(id)} * args.vector_bytes;
  args.num_tokens = slots.end - slots.begin;
  args.num_heads = heads.end - heads.begin;
  const size_t bytes = size_t{args.num_tokens} * args.num_heads * args.vector_bytes;
  const size_t offset = size_t{slots.begin} * args.vector_bytes;
  args.from[0] = resident_->Slots(id, layer, ResidentRegions::Kind::kKey, heads.begin) + offset;
  args.from[1] = resident_->Slots(id, layer, ResidentRegions::Kind::kValue, heads.begin) + offset;
  args.out[0] = staging_.data();
  args.out[1] = staging_.data() + bytes;
  if (!context_->Check(gpu::GatherHeads(args, {.stream = stream()}), "GatherHeads")) return;
  // Usually one frame's payload: K and V follow each other there, too.
  const bool adjacent = v == k + bytes;
  context_->Check(cudaMemcpyAsync(k, args.out[0], adjacent ? 2 * bytes : bytes, cudaMemcpyDeviceToHost, stream()),
                  "a spill's copy");
  if (adjacent) return;
  context_->Check(cudaMemcpyAsync(v, args.out[1], bytes, cudaMemcpyDeviceToHost, stream()), "a spill's copy");
}

CopyTicket CudaKvCopies::ReadRows(const Rows& rows, HeadRange heads, std::span<std::byte> k, std::span<std::byte> v) {
  const AttentionShape& shape = context_->config.attention;
  TRIBUTARY_CHECK_LE(heads.begin, heads.end);
  TRIBUTARY_CHECK_LE(heads.end, shape.num_kv_heads);
  const size_t head_bytes = shape.head_dim * DTypeBytes(rows.dtype);
  const size_t row_bytes = shape.num_kv_heads * head_bytes;
  const size_t packed_bytes = (heads.end - heads.begin) * head_bytes;
  TRIBUTARY_CHECK_EQ(k.size(), rows.num_tokens * packed_bytes);
  TRIBUTARY_CHECK_EQ(v.size(), k.size());
  if (k.empty() || !context_->sticky.ok()) return started_;
  context_->Check(cudaStreamWaitEvent(stream(), rows.ready, 0), "cudaStreamWaitEvent");
  const auto copy = [&](const std::byte* from, std::byte* to) {
    const cudaError_t error = packed_bytes == row_bytes
                                  ? cudaMemcpyAsync(to, from, k.size(), cudaMemcpyDeviceToHost, stream())
                                  : cudaMemcpy2DAsync(to, packed_bytes, from + heads.begin * head_bytes, row_bytes,
                                                      packed_bytes, rows.num_tokens, cudaMemcpyDeviceToHost, stream());
    context_->Check(error, "a copy of a prompt's KV");
  };
  copy(rows.k, k.data());
  copy(rows.v, v.data());
  return MakeTicket();
}

CopyTicket CudaKvCopies::MakeTicket() {
  if (started_ - done_ == kMaxPending) {
    context_->Check(cudaEventSynchronize(events_[(done_ + 1) % kMaxPending].get()), "a KV copy");
    ++done_;
  }
  ++started_;
  context_->Check(cudaEventRecord(events_[started_ % kMaxPending].get(), stream()), "cudaEventRecord");
  return started_;
}

bool CudaKvCopies::CopyDone(CopyTicket ticket) {
  if (!context_->sticky.ok()) return true;
  while (done_ < ticket && done_ < started_) {
    const cudaError_t error = cudaEventQuery(events_[(done_ + 1) % kMaxPending].get());
    if (error == cudaErrorNotReady) return false;
    if (!context_->Check(error, "a KV copy")) return true;
    ++done_;
  }
  return true;
}

void CudaKvCopies::MakeWait(cudaStream_t other) {
  if (started_ == done_ || !context_->sticky.ok()) return;
  context_->Check(cudaStreamWaitEvent(other, events_[started_ % kMaxPending].get(), 0), "cudaStreamWaitEvent");
}

void CudaKvCopies::AwaitAll() {
  if (!context_->sticky.ok()) return;
  if (context_->Check(cudaStreamSynchronize(stream()), "KV copies")) done_ = started_;
}

}  // namespace tributary
