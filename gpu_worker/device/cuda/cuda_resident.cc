#include "gpu_worker/device/cuda/cuda_resident.h"

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

void CudaResident::Read(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads,
                        std::span<std::byte> k, std::span<std::byte> v) {
  const size_t vector_bytes = context_->config.attention.head_dim * DTypeBytes(regions_.dtype(id));
  const size_t tokens = slots.end - slots.begin;
  const size_t row_bytes = (heads.end - heads.begin) * vector_bytes;
  TRIBUTARY_CHECK_LE(slots.begin, slots.end);
  TRIBUTARY_CHECK_LE(slots.end, regions_.capacity_tokens(id));
  TRIBUTARY_CHECK_EQ(k.size(), tokens * row_bytes);
  TRIBUTARY_CHECK_EQ(v.size(), tokens * row_bytes);
  if (tokens == 0 || !context_->sticky.ok()) return;
  for (const ResidentRegions::Kind kind :
       {ResidentRegions::Kind::kKey, ResidentRegions::Kind::kValue}) {
    std::byte* const to = kind == ResidentRegions::Kind::kKey ? k.data() : v.data();
    for (uint32_t head = heads.begin; head < heads.end; ++head) {
      const std::byte* from = Slots(id, layer, kind, head) + slots.begin * vector_bytes;
      context_->Check(cudaMemcpy2DAsync(to + (head - heads.begin) * vector_bytes, row_bytes, from,
                                        vector_bytes, vector_bytes, tokens, cudaMemcpyDeviceToHost,
                                        context_->copy_stream.get()),
                      "cudaMemcpy2DAsync of resident KV");
    }
  }
  context_->Check(cudaStreamSynchronize(context_->copy_stream.get()), "a copy of resident KV");
}

}  // namespace tributary
