// HGCA's facet on the host device: the plain twin of cuda/policy/hgca.
#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"
#include "gpu_worker/device/host/policy/host_facet.h"
#include "gpu_worker/device/policy/hgca/maw_facet.h"
#include "policy/hgca/maw.h"

namespace tributary {
namespace {

class HostMaw final : public HostFacet, public MawReader {
 public:
  HostMaw(const FacetSpec& spec, const HostFacetMemory& memory)
      : HostFacet(Rows::kLastOfSequence),
        params_(MawParamsOf(spec)),
        num_layers_(spec.num_layers),
        num_kv_heads_(spec.shape.num_kv_heads),
        group_size_(spec.shape.group_size()),
        capacity_tokens_(spec.capacity_tokens),
        maw_(reinterpret_cast<float*>(memory.parts[0].data()), memory.parts[0].size() / sizeof(float)) {}

  void OnNewTokens(uint32_t layer, SlotRange slots) override {
    for (uint32_t kv_head = 0; kv_head < num_kv_heads_; ++kv_head) {
      const std::span<float> head = Of(layer, kv_head);
      std::fill(head.begin() + slots.begin, head.begin() + slots.end, NAN);
    }
  }

  void OnAttended(const HostAttention& attention) override {
    std::array<float, kMaxRunSlots> a;
    for (const WeightRun& run : attention.weights) {
      const size_t slots = run.slots.end - run.slots.begin;
      AggregateGroup(params_.group_aggregate, run.weights, group_size_, std::span(a).first(slots));
      UpdateMaw(params_.alpha, std::span(a).first(slots), slots,
                Of(attention.layer, attention.kv_head).subspan(run.slots.begin, slots));
    }
  }

  std::unique_ptr<const SpillSections> OnLeaving(const LeavingBlock& block) override {
    return ReadBlockMaw(block, num_layers_, num_kv_heads_, this);
  }

  void ReadMaw(SlotRange slots, std::span<float> maw) override {
    TRIBUTARY_CHECK_LE(slots.begin, slots.end);
    TRIBUTARY_CHECK_LE(slots.end, capacity_tokens_);
    const size_t num_slots = slots.end - slots.begin;
    TRIBUTARY_CHECK_EQ(maw.size(), size_t{num_layers_} * num_kv_heads_ * num_slots);
    float* to = maw.data();
    for (uint32_t layer = 0; layer < num_layers_; ++layer) {
      for (uint32_t kv_head = 0; kv_head < num_kv_heads_; ++kv_head, to += num_slots) {
        std::copy_n(Of(layer, kv_head).data() + slots.begin, num_slots, to);
      }
    }
  }

 private:
  std::span<float> Of(uint32_t layer, uint32_t kv_head) const {
    return maw_.subspan((size_t{layer} * num_kv_heads_ + kv_head) * capacity_tokens_, capacity_tokens_);
  }

  const MawParams params_;
  const uint32_t num_layers_;
  const uint32_t num_kv_heads_;
  const uint32_t group_size_;
  const uint32_t capacity_tokens_;
  const std::span<float> maw_;  // [layer][kv_head][capacity_tokens]
};

}  // namespace

HostSeat HgcaHostSeat() {
  return {
      .parts = &MawParts,
      .make = [](const FacetSpec& spec, const HostFacetMemory& memory) -> absl::StatusOr<std::unique_ptr<HostFacet>> {
        return std::make_unique<HostMaw>(spec, memory);
      }};
}

}  // namespace tributary
