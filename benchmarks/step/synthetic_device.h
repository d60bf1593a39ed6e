// A device with the geometry of any model and no arithmetic: random queries, random KV of a prompt, nothing else. What
// is left of a decode step is the exchange and the remote attention, at sizes for which the host has no weights.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "gpu_worker/device/device.h"

namespace tributary {

struct SyntheticGeometry {
  AttentionShape shape;
  uint32_t num_layers = 0;
};

class SyntheticDevice final : public Device {
 public:
  SyntheticDevice(const SyntheticGeometry& geometry, const DeviceLimits& limits, uint64_t seed);

  const DeviceLimits& limits() const override { return limits_; }
  DeviceMemory memory() const override { return {}; }
  uint64_t KvBytesPerToken(DType kv_dtype) const override;

  absl::StatusOr<ResidentId> ReserveResident(const ResidentSpec& spec) override;
  void ReleaseResident(ResidentId id) override {}
  CopyTicket ReadResident(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads, std::span<std::byte> k,
                          std::span<std::byte> v) override;

  void BeginStep(std::span<const DecodeRow> rows) override { num_rows_ = rows.size(); }
  std::span<const float> AwaitQuery(uint32_t layer) override;
  void AttendResident(uint32_t layer) override {}
  PartialSlots& partial_slots() override { return slots_; }
  void FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots) override {}
  ConstAttentionPartialView resident_partial(uint32_t row_idx) const override { return {no_out_, no_lse_ln_}; }
  std::span<const float> EndStep() override;

  absl::StatusOr<std::unique_ptr<Prefill>> BeginPrefill(std::span<const uint32_t> tokens, DType kv_dtype) override;

  static constexpr uint32_t kVocabSize = 16;

 private:
  class RandomPrefill;
  void FillRandom(DType dtype, std::vector<std::byte>& bytes);

  const SyntheticGeometry geometry_;
  const DeviceLimits limits_;
  std::mt19937_64 random_;
  size_t num_rows_ = 0;
  std::vector<float> q_;
  std::vector<float> slot_out_;
  std::vector<float> slot_lse_ln_;
  PartialSlots slots_;
  std::vector<float> no_out_;  // the empty partial
  std::vector<float> no_lse_ln_;
  std::vector<float> logits_;
  uint32_t last_resident_ = 0;
};

}  // namespace tributary
