#include "gpu_worker/device/cuda/cuda_device.h"

#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "base/status.h"
#include "fmt/format.h"
#include "gpu_worker/device/cuda/forward/cuda_decode.h"
#include "gpu_worker/device/cuda/forward/cuda_prefill.h"
#include "gpu_worker/device/cuda/kernels/moe.h"
#include "gpu_worker/device/cuda/policy/cuda_facet.h"
#include "gpu_worker/device/cuda/runtime/cuda_context.h"
#include "gpu_worker/device/cuda/runtime/cuda_status.h"
#include "gpu_worker/device/cuda/storage/cuda_kv_copies.h"
#include "gpu_worker/device/cuda/storage/cuda_resident.h"
#include "gpu_worker/device/cuda/storage/cuda_weights.h"

namespace tributary {
namespace {

// What the driver, cuBLASLt's kernels and allocation granularity take beside what we ask for.
constexpr uint64_t kReservedBytes = uint64_t{256} << 20;

absl::Status CheckLimits(const DeviceLimits& limits) {
  if (limits.max_batch < 1 || limits.max_batch > limits::kMaxBatch) {
    return absl::InvalidArgumentError(
        fmt::format("max_batch is {}; it must be in [1, {}]", limits.max_batch, limits::kMaxBatch));
  }
  if (limits.max_partial_slots > limits::kMaxTokenStripes) {
    return absl::InvalidArgumentError(fmt::format("max_partial_slots is {}; it must be at most {}",
                                                  limits.max_partial_slots, limits::kMaxTokenStripes));
  }
  return absl::OkStatus();
}

// The kernels load 16 bytes at a time.
absl::Status CheckShape(const ModelConfig& config) {
  const AttentionShape& shape = config.attention;
  const std::pair<const char*, uint64_t> sizes[] = {
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"num_attention_heads * head_dim", uint64_t{shape.num_q_heads} * shape.head_dim},
      {"head_dim", shape.head_dim},
      {"moe_intermediate_size", config.moe.intermediate_size}};
  for (const auto& [name, size] : sizes) {
    if (size % 8 != 0) {
      return absl::InvalidArgumentError(
          fmt::format("the model's {} is {}; the CUDA device needs a multiple of 8: use --device host", name, size));
    }
  }
  if (config.moe.experts_per_token > gpu::kMaxExpertsPerToken) {
    return absl::InvalidArgumentError(
        fmt::format("the model's num_experts_per_tok is {}; the CUDA device has room for "
                    "{}: use --device host",
                    config.moe.experts_per_token, gpu::kMaxExpertsPerToken));
  }
  return absl::OkStatus();
}

DType ComputeDType(const ModelWeights& weights, const CudaDeviceOptions& options) {
  if (options.compute_dtype != DType::kUnset) return options.compute_dtype;
  return ToDType(weights.layers.front().q->type);
}

std::string Mib(uint64_t bytes) { return fmt::format("{} MiB", (bytes + (1 << 20) - 1) >> 20); }

// Says beforehand, in one message, what does not fit.
absl::Status CheckMemory(const CudaContext& context, const ModelWeights& weights) {
  const DeviceLimits& limits = context.limits;
  size_t free_bytes = 0, total_bytes = 0;
  TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaMemGetInfo(&free_bytes, &total_bytes));
  const uint64_t weight_bytes = CudaWeights::Bytes(weights, context.compute_dtype);
  const uint64_t decode_bytes = CudaDecode::DeviceBytes(context.config, limits, context.options.deterministic);
  const uint64_t prefill_bytes = CudaKvCopies::kStagingBytes +
                                 CudaPrefillShared::ScratchBytes(context.config, context.compute_dtype) +
                                 CudaPrefill::PromptBytes(context.config, MaxPrefillTokensAtOnce(limits), DType::kBf16);
  const auto needed = static_cast<unsigned __int128>(weight_bytes) + limits.resident_pool_bytes + decode_bytes +
                      prefill_bytes + kReservedBytes;
  if (needed <= free_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(fmt::format(
      "GPU {} ({}) has {} free of {}, but {} are needed: {} for the weights in {}, {} for the "
      "resident pool, {} for decode steps, {} for prefills of {} tokens, {} for the driver. Lower "
      "--resident-pool-bytes, --max-batch, --max-token-stripes or --max-prefill-tokens, use "
      "--compute-dtype bf16, another GPU (--device cuda:N) or a smaller model",
      context.options.ordinal, context.name, Mib(free_bytes), Mib(total_bytes), Mib(static_cast<uint64_t>(needed)),
      Mib(weight_bytes), std::string(DTypeName(context.compute_dtype)), Mib(limits.resident_pool_bytes),
      Mib(decode_bytes), Mib(prefill_bytes), MaxPrefillTokensAtOnce(limits), Mib(kReservedBytes)));
}

class CudaDevice final : public Device {
 public:
  static absl::StatusOr<std::unique_ptr<Device>> Make(std::unique_ptr<CudaContext> context,
                                                      const ModelWeights& weights) {
    auto device = std::make_unique<CudaDevice>();
    device->context_ = std::move(context);
    CudaContext* const c = device->context_.get();
    TRIBUTARY_ASSIGN_OR_RETURN(device->weights_, CudaWeights::Make(*c, weights));
    TRIBUTARY_ASSIGN_OR_RETURN(device->seats_, CudaDeviceSeats::Make(c));
    TRIBUTARY_ASSIGN_OR_RETURN(device->resident_, CudaResident::Make(c, device->seats_.get()));
    TRIBUTARY_ASSIGN_OR_RETURN(
        device->decode_, CudaDecode::Make(c, device->weights_.get(), device->resident_.get(), device->seats_.get()));
    TRIBUTARY_ASSIGN_OR_RETURN(device->copies_, CudaKvCopies::Make(c, device->resident_.get()));
    TRIBUTARY_ASSIGN_OR_RETURN(
        device->prefill_,
        CudaPrefillShared::Make(c, device->weights_.get(), device->resident_.get(), device->copies_.get()));
    LOG_INFO("GPU {} ({}, {} multiprocessors): {} of weights in {}, {} resident pool", c->options.ordinal, c->name,
             c->num_sms, Mib(device->weights_->bytes()), std::string(DTypeName(c->compute_dtype)),
             Mib(c->limits.resident_pool_bytes));
    return device;
  }

  ~CudaDevice() override {
    context_->BindThread();
    if (decode_ != nullptr) decode_->Stop();
  }

  const DeviceLimits& limits() const override { return context_->limits; }
  DeviceMemory memory() const override { return resident_->regions().memory(); }
  uint64_t KvBytesPerToken(DType kv_dtype) const override {
    return uint64_t{2} * context_->config.num_layers * context_->kv_dim() * DTypeBytes(kv_dtype);
  }

  absl::StatusOr<ResidentId> ReserveResident(const ResidentSpec& spec) override {
    context_->BindThread();
    return resident_->Reserve(spec);
  }
  void ReleaseResident(ResidentId id) override {
    context_->BindThread();
    resident_->Release(id);
  }
  PolicyFacet* facet(ResidentId id) override { return resident_->facet(id); }
  CopyTicket ReadResident(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads, std::span<std::byte> k,
                          std::span<std::byte> v) override {
    context_->BindThread();
    return copies_->ReadResident(id, layer, slots, heads, k, v);
  }
  bool CopyDone(CopyTicket ticket) override { return copies_->CopyDone(ticket); }
  void PinHostMemory(std::span<std::byte> memory) override {
    context_->BindThread();
    copies_->PinHostMemory(memory);
  }

  void BeginStep(std::span<const DecodeRow> rows) override { decode_->BeginStep(rows); }
  std::span<const float> AwaitQuery(uint32_t layer) override { return decode_->AwaitQuery(layer); }
  void AttendResident(uint32_t) override {}  // the GPU goes on by itself
  PartialSlots& partial_slots() override { return decode_->partial_slots(); }
  void FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots) override {
    decode_->FinishLayer(layer, num_slots);
  }
  ConstAttentionPartialView resident_partial(uint32_t row_idx) const override {
    return decode_->resident_partial(row_idx);
  }
  std::span<const float> EndStep() override { return decode_->EndStep(); }
  bool samples() const override { return true; }
  std::span<const DeviceSample> sampled() const override { return decode_->sampled(); }
  absl::Status step_status() const override { return decode_->step_status(); }
  DeviceStepTimes step_times() const override { return decode_->step_times(); }
  absl::Status status() const override { return context_->sticky; }

  // The thread that uses the device need not be the one that made it, and a thread starts on GPU 0.
  absl::StatusOr<std::unique_ptr<Prefill>> BeginPrefill(std::span<const uint32_t> tokens, DType kv_dtype) override {
    context_->BindThread();
    return CudaPrefill::Begin(prefill_.get(), tokens, kv_dtype);
  }

 private:
  // In this order: what comes later uses what stands before it.
  std::unique_ptr<CudaContext> context_;
  std::unique_ptr<CudaWeights> weights_;
  std::unique_ptr<CudaDeviceSeats> seats_;
  std::unique_ptr<CudaResident> resident_;
  std::unique_ptr<CudaDecode> decode_;
  std::unique_ptr<CudaKvCopies> copies_;
  std::unique_ptr<CudaPrefillShared> prefill_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> MakeCudaDevice(std::shared_ptr<const ModelWeights> weights,
                                                       const DeviceLimits& limits, const CudaDeviceOptions& options) {
  TRIBUTARY_RETURN_IF_ERROR(CheckLimits(limits));
  TRIBUTARY_RETURN_IF_ERROR(CheckShape(weights->config));
  TRIBUTARY_ASSIGN_OR_RETURN(std::unique_ptr<CudaContext> context, CudaContext::Make(weights->config, limits, options));
  context->compute_dtype = ComputeDType(*weights, options);
  TRIBUTARY_RETURN_IF_ERROR(CheckMemory(*context, *weights));
  return CudaDevice::Make(std::move(context), *weights);
}

}  // namespace tributary
