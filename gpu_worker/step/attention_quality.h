// What a sparse policy read of a sequence's remote tokens, and how much of their softmax mass that held: over the
// sequence's decode steps, by layer and KV head. Pure bookkeeping.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/shape.h"
#include "cluster/sequence_summary.h"
#include "policy/kept_mass.h"
#include "policy/policy.h"

namespace tributary {

// One layer of a measured row, as it was gathered: a slot holds the answers for one token stripe.
struct MeasuredLayer {
  uint32_t layer = 0;
  uint64_t remote_tokens = 0;  // that the row may see
  uint32_t num_slots = 0;
  std::span<const float> lse_ln;              // [slot][q_head], of what was read
  std::span<const float> lse_dense_ln;        // [slot][q_head], of everything
  std::span<const uint32_t> attended_tokens;  // [slot][kv_head]
};

// Thread-compatible. Allocates when it is made, not later.
class AttentionQuality {
 public:
  // REQUIRES: a sparse policy, resolved.
  AttentionQuality(const PolicyParams& policy, const AttentionShape& shape, uint32_t num_layers);

  // A continued sequence: what follows is reported apart from what was before, and sampled from its first step on,
  // because the appended prompt has replaced the selections and what was known of them.
  void BeginTurn();
  // Begins a step that has remote tokens. True if it is to be measured: IsQualitySample(), counted from the second such
  // step on, because in the first one the nodes may read everything: no step had been when prefill's tokens left.
  bool BeginStep();
  // REQUIRES: BeginStep() was true.
  void AddLayer(const MeasuredLayer& measured);
  // The step has succeeded. Sums over layers and KV heads of what was read, and of what there was.
  void EndStep(uint64_t attended_head_tokens, uint64_t covered_head_tokens);

  // The kept mass of the step that runs, or ran last; empty unless it is measured.
  const KeptMassStats& step_kept_mass() const { return step_; }

  AttentionQualitySummary Summary() const;

 private:
  struct Head {
    KeptMassStats kept;
    double read_share_sum = 0;  // one addend for each sample
    bool is_dense = false;      // at the last one it read everything, or missed the floor and will from then on
  };

  const AttentionShape shape_;
  const double sample_rate_;
  const double min_kept_mass_;
  const std::unique_ptr<const AttentionPolicy> policy_;
  std::vector<Head> heads_;  // [layer][kv_head]
  uint64_t num_steps_ = 0;
  uint64_t num_samples_ = 0;
  bool measuring_ = false;
  KeptMassStats step_;
  double attended_head_tokens_ = 0;
  double covered_head_tokens_ = 0;
};

}  // namespace tributary
