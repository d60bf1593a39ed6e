#include "gpu_worker/device/cuda/cuda_resident.h"

#include <cstring>

#include "base/check.h"
#include "base/status.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<CudaResident>> CudaResident::Make(CudaContext* context) {
  std::unique_ptr<CudaResident> resident(new CudaResident(context));
  TRIBUTARY_ASSIGN_OR_RETURN(
      resident->pool_,
      DeviceBuffer::Make(context->limits.resident_pool_bytes, "the resident pool"));
  return resident;
}

void CudaResident::CopyOut(ResidentId id, uint32_t layer, ResidentRegions::Kind kind,
                           SlotRange slots, std::byte* canonical) {
  const AttentionShape& shape = context_->config.attention;
  const size_t vector_bytes = shape.head_dim * DTypeBytes(regions_.dtype(id));
  const size_t tokens = slots.end - slots.begin;
  for (uint32_t head = 0; head < shape.num_kv_heads; ++head) {
    const std::byte* from = Slots(id, layer, kind, head) + slots.begin * vector_bytes;
    context_->Check(
        cudaMemcpy2DAsync(canonical + head * vector_bytes, shape.num_kv_heads * vector_bytes, from,
                          vector_bytes, vector_bytes, tokens, cudaMemcpyDeviceToHost,
                          context_->copy_stream.get()),
        "cudaMemcpy2DAsync of resident KV");
  }
}

void CudaResident::Read(ResidentId id, uint32_t layer, SlotRange slots, std::span<std::byte> k,
                        std::span<std::byte> v) {
  TRIBUTARY_CHECK_LE(slots.begin, slots.end);
  TRIBUTARY_CHECK_LE(slots.end, regions_.capacity_tokens(id));
  const size_t bytes =
      (slots.end - slots.begin) * context_->kv_dim() * DTypeBytes(regions_.dtype(id));
  TRIBUTARY_CHECK_EQ(k.size(), bytes);
  TRIBUTARY_CHECK_EQ(v.size(), bytes);
  if (bytes == 0 || !context_->sticky.ok()) return;
  if (staging_.bytes() < 2 * bytes) {
    absl::StatusOr<PinnedBuffer> larger = PinnedBuffer::Make(2 * bytes, "a spill's staging");
    if (!larger.ok()) {
      context_->Check(cudaErrorMemoryAllocation, "cudaHostAlloc of a spill's staging");
      return;
    }
    staging_ = *std::move(larger);
  }
  CopyOut(id, layer, ResidentRegions::Kind::kKey, slots, staging_.data());
  CopyOut(id, layer, ResidentRegions::Kind::kValue, slots, staging_.data() + bytes);
  if (!context_->Check(cudaStreamSynchronize(context_->copy_stream.get()), "a spill's copy")) {
    return;
  }
  std::memcpy(k.data(), staging_.data(), bytes);
  std::memcpy(v.data(), staging_.data() + bytes, bytes);
}

}  // namespace tributary
