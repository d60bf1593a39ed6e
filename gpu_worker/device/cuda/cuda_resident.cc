#include "gpu_worker/device/cuda/cuda_resident.h"

#include "base/check.h"
#include "base/status.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<CudaResident>> CudaResident::Make(CudaContext* context) {
  std::unique_ptr<CudaResident> resident(new CudaResident(context));
  TRIBUTARY_ASSIGN_OR_RETURN(resident->pool_,
                             DeviceBuffer::Make(context->limits.resident_pool_bytes, "the resident pool"));
  return resident;
}

void CudaResident::ForgetMaw(ResidentId id, uint32_t layer, SlotRange slots, cudaStream_t stream) {
  if (!regions_.maw(id).has_value()) return;
  const size_t pitch = regions_.capacity_tokens(id) * sizeof(float);
  // Bytes of ones are NaN.
  context_->Check(
      cudaMemset2DAsync(Maw(id, layer) + slots.begin, pitch, 0xff, (slots.end - slots.begin) * sizeof(float),
                        context_->config.attention.num_kv_heads, stream),
      "the start of a window's averages");
}

void CudaResident::ReadMaw(ResidentId id, SlotRange slots, std::span<float> maw) {
  const size_t rows = size_t{context_->config.num_layers} * context_->config.attention.num_kv_heads;
  TRIBUTARY_CHECK_LE(slots.begin, slots.end);
  TRIBUTARY_CHECK_LE(slots.end, regions_.capacity_tokens(id));
  TRIBUTARY_CHECK_EQ(maw.size(), rows * (slots.end - slots.begin));
  if (maw.empty() || !context_->sticky.ok()) return;
  const size_t width = (slots.end - slots.begin) * sizeof(float);
  // On the stream of the steps, which is empty between two of them: nothing else's copies are in front.
  const cudaStream_t stream = context_->decode_stream.get();
  const bool copying = context_->Check(
      cudaMemcpy2DAsync(maw.data(), width, Maw(id, 0) + slots.begin, regions_.capacity_tokens(id) * sizeof(float),
                        width, rows, cudaMemcpyDeviceToHost, stream),
      "the copy of a block's averages");
  if (copying) context_->Check(cudaStreamSynchronize(stream), "the copy of a block's averages");
}

}  // namespace tributary
