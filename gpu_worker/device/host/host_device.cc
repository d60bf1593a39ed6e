#include "gpu_worker/device/host/host_device.h"

#include <unistd.h>

#include <new>
#include <utility>

#include "absl/status/status.h"
#include "base/limits.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "fmt/format.h"
#include "gpu_worker/device/host/blas_library.h"
#include "gpu_worker/device/host/host_decode.h"
#include "gpu_worker/device/host/host_prefill.h"
#include "gpu_worker/device/host/host_weights.h"
#include "gpu_worker/device/host/layer_ops.h"
#include "gpu_worker/device/host/resident_cache.h"
#include "gpu_worker/device/host/row_kernels.h"
#include "model/model_identity.h"

namespace tributary {
namespace {

class HostDevice final : public Device {
 public:
  HostDevice(std::shared_ptr<const ModelWeights> weights, const DeviceLimits& limits, int num_threads,
             WeightDType weight_dtype)
      : limits_(limits),
        pool_(num_threads),
        weights_(std::move(weights), weight_dtype, pool_),
        rope_(weights_.config()),
        cache_(weights_.config().attention, weights_.layers(), limits.resident_pool_bytes,
               {weights_.source().dir(), ModelIdentity(weights_.source())}),
        decode_(weights_, rope_, BestRowKernels(), limits, cache_, pool_),
        prefill_(weights_, rope_, BestRowKernels(), limits.max_prefill_tokens, pool_, cache_) {}

  const DeviceLimits& limits() const override { return limits_; }
  DeviceMemory memory() const override { return cache_.memory(); }
  uint64_t KvBytesPerToken(DType kv_dtype) const override {
    return uint64_t{2} * weights_.config().num_layers * weights_.kv_dim() * DTypeBytes(kv_dtype);
  }

  absl::StatusOr<ResidentId> ReserveResident(const ResidentSpec& spec) override {
    absl::StatusOr<ResidentId> id = cache_.Reserve(spec);
    if (id.ok() && wants_weights(*id)) decode_.PrepareWeights(spec.capacity_tokens);
    return id;
  }
  void ReleaseResident(ResidentId id) override { cache_.Release(id); }
  PolicyFacet* facet(ResidentId id) override { return cache_.facet(id); }
  CopyTicket ReadResident(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads, std::span<std::byte> k,
                          std::span<std::byte> v) override {
    cache_.Read(id, layer, ResidentCache::Kind::kKey, slots, heads, k);
    cache_.Read(id, layer, ResidentCache::Kind::kValue, slots, heads, v);
    return 0;
  }

  void BeginStep(std::span<const DecodeRow> rows) override { decode_.BeginStep(rows); }
  std::span<const float> AwaitQuery(uint32_t layer) override { return decode_.AwaitQuery(layer); }
  void AttendResident(uint32_t layer) override { decode_.AttendResident(layer); }
  PartialSlots& partial_slots() override { return decode_.partial_slots(); }
  void FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots) override {
    decode_.FinishLayer(layer, num_slots);
  }
  ConstAttentionPartialView resident_partial(uint32_t row_idx) const override {
    return decode_.resident_partial(row_idx);
  }
  std::span<const float> EndStep() override { return decode_.EndStep(); }

  absl::StatusOr<std::unique_ptr<Prefill>> BeginPrefill(std::span<const uint32_t> tokens, DType kv_dtype) override {
    return HostPrefill::Begin(&prefill_, tokens, kv_dtype);
  }

 private:
  bool wants_weights(ResidentId id) const {
    const HostFacet* const facet = cache_.facet(id);
    return facet != nullptr && facet->wants_weights();
  }

  const DeviceLimits limits_;
  ThreadPool pool_;
  const HostWeights weights_;
  const Rope rope_;
  ResidentCache cache_;
  HostDecode decode_;
  HostPrefillShared prefill_;
};

absl::Status CheckLimits(const DeviceLimits& limits, int num_threads) {
  if (limits.max_batch < 1 || limits.max_batch > limits::kMaxBatch) {
    return absl::InvalidArgumentError(
        fmt::format("max_batch is {}; it must be in [1, {}]", limits.max_batch, limits::kMaxBatch));
  }
  if (limits.max_partial_slots > limits::kMaxTokenStripes) {
    return absl::InvalidArgumentError(fmt::format("max_partial_slots is {}; it must be at most {}",
                                                  limits.max_partial_slots, limits::kMaxTokenStripes));
  }
  if (num_threads < 1 || num_threads > 1024) {
    return absl::InvalidArgumentError(fmt::format("num_threads is {}; it must be in [1, 1024]", num_threads));
  }
  return absl::OkStatus();
}

// Refuses what could only end in the kernel killing the process.
absl::Status CheckMemory(const ModelWeights& weights, const DeviceLimits& limits, WeightDType weight_dtype) {
  const uint64_t weight_bytes = HostWeights::Bytes(weights, weight_dtype);
  const uint64_t prefill_bytes = HostPrefill::Bytes(weights.config, MaxPrefillTokensAtOnce(limits), DType::kBf16);
  const uint64_t memory_bytes =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const auto needed = static_cast<unsigned __int128>(weight_bytes) + prefill_bytes + limits.resident_pool_bytes;
  if (needed <= memory_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(fmt::format(
      "the host device needs {} bytes for weights, {} for the resident pool and {} "
      "for prefills of {} tokens, but "
      "this machine has {} bytes: use a smaller model, pool or prompt limit, or a "
      "machine with more memory",
      weight_bytes, limits.resident_pool_bytes, prefill_bytes, MaxPrefillTokensAtOnce(limits), memory_bytes));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> MakeHostDevice(std::shared_ptr<const ModelWeights> weights,
                                                       const DeviceLimits& limits, int num_threads,
                                                       WeightDType weight_dtype) {
  TRIBUTARY_RETURN_IF_ERROR(CheckLimits(limits, num_threads));
  TRIBUTARY_RETURN_IF_ERROR(CheckMemory(*weights, limits, weight_dtype));
  TRIBUTARY_RETURN_IF_ERROR(BlasLibrary::Get().status());
  try {
    return std::make_unique<HostDevice>(std::move(weights), limits, num_threads, weight_dtype);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(fmt::format(
        "no memory for the host device with a resident pool of {} bytes; ask for less", limits.resident_pool_bytes));
  }
}

}  // namespace tributary
