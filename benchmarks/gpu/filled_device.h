// A device whose prompts need not be computed: their KV is random, in the resident slots and in what is sent to shards.
// Decode steps are the inner device's, in full. So contexts can be measured that take minutes to prefill.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "gpu_worker/device/device.h"
#include "gpu_worker/device/facet.h"
#include "model/model_config.h"

namespace tributary {

class FilledDevice final : public Device {
 public:
  // The inner device prefills at least kFillTokens.
  static constexpr uint32_t kFillTokens = 2048;
  FilledDevice(std::unique_ptr<Device> inner, const ModelConfig& config, uint64_t seed);

  // From the next prompt on, the inner device computes them.
  void ComputePrompts(bool compute) { computes_ = compute; }

  const DeviceLimits& limits() const override { return limits_; }
  DeviceMemory memory() const override { return inner_->memory(); }
  uint64_t KvBytesPerToken(DType kv_dtype) const override { return inner_->KvBytesPerToken(kv_dtype); }
  // With random KV in every slot.
  absl::StatusOr<ResidentId> ReserveResident(const ResidentSpec& spec) override;
  void ReleaseResident(ResidentId id) override { inner_->ReleaseResident(id); }
  PolicyFacet* facet(ResidentId id) override { return inner_->facet(id); }
  CopyTicket ReadResident(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads, std::span<std::byte> k,
                          std::span<std::byte> v) override {
    return inner_->ReadResident(id, layer, slots, heads, k, v);
  }
  bool CopyDone(CopyTicket ticket) override { return inner_->CopyDone(ticket); }
  void PinHostMemory(std::span<std::byte> memory) override { inner_->PinHostMemory(memory); }

  void BeginStep(std::span<const DecodeRow> rows) override { inner_->BeginStep(rows); }
  std::span<const float> AwaitQuery(uint32_t layer) override { return inner_->AwaitQuery(layer); }
  void AttendResident(uint32_t layer) override { inner_->AttendResident(layer); }
  PartialSlots& partial_slots() override { return inner_->partial_slots(); }
  void FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots) override {
    inner_->FinishLayer(layer, num_slots);
  }
  ConstAttentionPartialView resident_partial(uint32_t row_idx) const override {
    return inner_->resident_partial(row_idx);
  }
  std::span<const float> EndStep() override { return inner_->EndStep(); }
  bool samples() const override { return inner_->samples(); }
  std::span<const DeviceSample> sampled() const override { return inner_->sampled(); }
  absl::Status step_status() const override { return inner_->step_status(); }
  DeviceStepTimes step_times() const override { return inner_->step_times(); }
  absl::Status status() const override { return inner_->status(); }

  absl::StatusOr<std::unique_ptr<Prefill>> BeginPrefill(std::span<const uint32_t> tokens, DType kv_dtype) override;

 private:
  class RandomPrefill;
  absl::Status Fill(ResidentId id, uint32_t capacity_tokens, DType kv_dtype);

  const std::unique_ptr<Device> inner_;
  const ModelConfig config_;
  DeviceLimits limits_;
  bool computes_ = false;
  std::mt19937_64 random_;
  std::vector<float> logits_;
  std::vector<float> values_;
  std::vector<std::byte> kv_;  // random numbers of the prompt's dtype
  DType kv_dtype_ = DType::kUnset;
};

}  // namespace tributary
