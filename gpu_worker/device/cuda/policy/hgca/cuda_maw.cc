// HGCA's facet on the GPU; the plain twin is host/policy/hgca.
#include <cstring>

#include "base/check.h"
#include "gpu_worker/device/cuda/policy/cuda_facet.h"
#include "gpu_worker/device/cuda/policy/hgca/update_maw.h"
#include "gpu_worker/device/policy/hgca/maw_facet.h"

namespace tributary {
namespace {

class CudaMaw final : public CudaFacet, public MawReader {
 public:
  CudaMaw(CudaContext* context, const FacetSpec& spec, const CudaFacetMemory& memory)
      : context_(context),
        words_{MawParamsOf(spec)},
        num_layers_(spec.num_layers),
        num_kv_heads_(spec.shape.num_kv_heads),
        capacity_tokens_(spec.capacity_tokens),
        maw_(reinterpret_cast<float*>(memory.parts[0])),
        scores_(reinterpret_cast<float*>(memory.parts[1])) {}

  bool Describe(const DecodeRow& row, gpu::DecodeRowDesc* to) override {
    if (row.step_tokens == 0) return false;
    to->facet = reinterpret_cast<std::byte*>(maw_);
    to->scores = scores_;
    std::memcpy(to->facet_words, &words_, sizeof(words_));
    return true;
  }

  void OnNewTokens(uint32_t layer, SlotRange slots, cudaStream_t stream) override {
    // Bytes of ones are NaN.
    context_->Check(cudaMemset2DAsync(Of(layer) + slots.begin, capacity_tokens_ * sizeof(float), 0xff,
                                      (slots.end - slots.begin) * sizeof(float), num_kv_heads_, stream),
                    "the start of a window's averages");
  }

  std::unique_ptr<const SpillSections> OnLeaving(const LeavingBlock& block) override {
    return ReadBlockMaw(block, num_layers_, num_kv_heads_, this);
  }

  void ReadMaw(SlotRange slots, std::span<float> maw) override {
    const size_t rows = size_t{num_layers_} * num_kv_heads_;
    TRIBUTARY_CHECK_LE(slots.begin, slots.end);
    TRIBUTARY_CHECK_LE(slots.end, capacity_tokens_);
    TRIBUTARY_CHECK_EQ(maw.size(), rows * (slots.end - slots.begin));
    if (maw.empty() || !context_->sticky.ok()) return;
    context_->BindThread();
    const size_t width = (slots.end - slots.begin) * sizeof(float);
    // On the stream of the steps, which is empty between two of them: nothing else's copies are in front.
    const cudaStream_t stream = context_->decode_stream.get();
    const bool copying =
        context_->Check(cudaMemcpy2DAsync(maw.data(), width, Of(0) + slots.begin, capacity_tokens_ * sizeof(float),
                                          width, rows, cudaMemcpyDeviceToHost, stream),
                        "the copy of a block's averages");
    if (copying) context_->Check(cudaStreamSynchronize(stream), "the copy of a block's averages");
  }

 private:
  float* Of(uint32_t layer) const { return maw_ + size_t{layer} * num_kv_heads_ * capacity_tokens_; }

  CudaContext* const context_;
  const gpu::MawWords words_;
  const uint32_t num_layers_;
  const uint32_t num_kv_heads_;
  const uint32_t capacity_tokens_;
  float* const maw_;     // device memory, [layer][kv_head][capacity_tokens]
  float* const scores_;  // likewise, [q_head][capacity_tokens]
};

class CudaMawSeat final : public CudaSeat {
 public:
  explicit CudaMawSeat(CudaContext* context) : context_(context) {}

  std::vector<PolicyBytes> Parts(const FacetSpec& spec) const override { return MawParts(spec); }
  std::unique_ptr<CudaFacet> MakeFacet(const FacetSpec& spec, const CudaFacetMemory& memory) override {
    return std::make_unique<CudaMaw>(context_, spec, memory);
  }
  bool wants_scores() const override { return true; }
  // In front of the wait for the host, behind which it hides.
  cudaError_t AddAfterAttention(const CudaStepNodes& nodes) override {
    return gpu::UpdateMaw({.facet_kind = nodes.kind,
                           .rows = nodes.rows,
                           .num_rows = nodes.num_rows,
                           .layer = nodes.layer,
                           .geometry = nodes.geometry,
                           .rule = nodes.rule,
                           .workspace = nodes.workspace,
                           .sink_logits = nodes.sink_logits},
                          nodes.launch);
  }

 private:
  CudaContext* const context_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaSeat>> MakeHgcaCudaSeat(CudaContext* context) {
  return std::make_unique<CudaMawSeat>(context);
}

}  // namespace tributary
