// A policy's seat on the host device: what it is told of a sequence, and the table of seats. The plain twin of
// device/cuda/policy/cuda_facet.h: same moments, same names. Tests' devices use it, too.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/device/facet.h"
#include "policy/policy_params.h"
#include "policy/seat_table.h"

namespace tributary {

// A row of a step after QKV of a layer: its K and V are in the resident memory.
struct HostQuery {
  const DecodeRow& row;
  uint32_t row_idx = 0;  // in the batch, as FacetQuery::row
  uint32_t layer = 0;
  std::span<const float> q;  // after RoPE, f32 [num_q_heads][head_dim]
};

// Softmax weights over slots that follow each other.
struct WeightRun {
  SlotRange slots;                 // at most kMaxRunSlots
  std::span<const float> weights;  // f32 [group_size][slots], normalised over all resident tokens attended
};
inline constexpr uint32_t kMaxRunSlots = 512;

// One KV head of a row after its resident attention.
struct HostAttention {
  const DecodeRow& row;
  uint32_t row_idx = 0;
  uint32_t layer = 0;
  uint32_t kv_head = 0;
  std::span<const float> q;            // f32 [group_size][head_dim]
  std::span<const float> out;          // likewise, normalised
  std::span<const float> lse_ln;       // f32 [group_size]
  std::span<const WeightRun> weights;  // in token order; empty unless the facet wants those of this row
};

// Some tokens of a prompt that will never be resident, of one layer.
struct HostPrompt {
  uint32_t layer = 0;
  TokenRange tokens;
  std::span<const std::byte> k;  // of the KV dtype, [token][num_kv_heads][head_dim]
  std::span<const std::byte> v;
};

class HostFacet : public PolicyFacet {
 public:
  enum class Rows : uint8_t { kNone, kLastOfSequence, kAll };

  // New tokens lie in these slots of a layer: those that a row of a step appends, before OnQuery(), or a prompt's.
  virtual void OnNewTokens(uint32_t layer, SlotRange slots) {}
  virtual void OnQuery(const HostQuery& query) {}
  // Called by several threads at once, for different rows and KV heads. A layer's calls end before the next OnQuery().
  virtual void OnAttended(const HostAttention& attention) {}
  virtual std::unique_ptr<const SpillSections> OnPrompt(const HostPrompt& prompt) { return nullptr; }

  bool wants_weights() const { return weights_of_ != Rows::kNone; }
  bool wants_weights_of(const DecodeRow& row) const {
    return weights_of_ == Rows::kAll || (weights_of_ == Rows::kLastOfSequence && row.step_tokens != 0);
  }
  // True: what WriteQuerySection() says needs OnAttended() of the layer. The resident attention goes first then.
  bool query_follows_attention() const { return query_follows_attention_; }

 protected:
  // weights_of: of which rows OnAttended() gets the softmax weights.
  explicit HostFacet(Rows weights_of = Rows::kNone, bool query_follows_attention = false)
      : weights_of_(weights_of), query_follows_attention_(query_follows_attention) {}

 private:
  const Rows weights_of_;
  const bool query_follows_attention_;
};

// What a facet may use, until it is destroyed.
struct HostFacetMemory {
  std::span<const std::span<std::byte>> parts;  // as the seat asked for, 64-byte aligned, filled with anything
  // Resident K and V as Device::ReadResident() gives them, done on return.
  std::function<void(uint32_t layer, SlotRange slots, HeadRange heads, std::span<std::byte> k, std::span<std::byte> v)>
      read_kv;
};

// A policy's row in the table; both null for a policy that keeps nothing on a device. `make` may say why it cannot, and
// may make no facet.
struct HostSeat {
  std::vector<PolicyBytes> (*parts)(const FacetSpec& spec) = nullptr;
  absl::StatusOr<std::unique_ptr<HostFacet>> (*make)(const FacetSpec& spec, const HostFacetMemory& memory) = nullptr;
};

// Each policy defines NameHostSeat() in its folder.
#define TRIBUTARY_POLICY(name, Name) HostSeat Name##HostSeat();
#include "policy/policies.def"

// The table is filled from policy/policies.def; a test adds its own.
SeatTable<HostSeat>& HostSeats();

// The facet of one reservation: what it needs, then, with that memory, the facet.
class HostFacetPlan {
 public:
  // UNIMPLEMENTED, naming the policy, if it has no seat here.
  // `model` outlives the plan.
  static absl::StatusOr<HostFacetPlan> Make(const ResidentSpec& spec, const AttentionShape& shape, uint32_t num_layers,
                                            const FacetModel* model);

  std::span<const PolicyBytes> parts() const { return parts_; }
  // Null without a policy, or for one that keeps nothing on a device.
  absl::StatusOr<std::unique_ptr<HostFacet>> MakeFacet(const HostFacetMemory& memory) const;

 private:
  FacetSpec spec_;
  HostSeat seat_;
  std::vector<PolicyBytes> parts_;
};

}  // namespace tributary
