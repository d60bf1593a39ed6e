// What a sparse policy read of a sequence's remote tokens, how much of their softmax mass that held, and how wrong it
// made the attention's output: over the sequence's decode steps, by layer and KV head. Also, which KV heads are to be
// answered by everything because their output was too wrong (max_output_error): only the worker knows it, once it has
// merged. Pure bookkeeping.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/output_error.h"
#include "attention/partial.h"
#include "attention/shape.h"
#include "cluster/sequence_summary.h"
#include "policy/kept_mass.h"
#include "policy/output_error_stats.h"
#include "policy/policy.h"

namespace tributary {

// One layer of a measured row, as it was gathered: a slot holds the answers for one token stripe. Of each slot and KV
// head, one of answer and sample is dense, the other is what the policy selects (docs/wire_format.md, "The sample"):
// the dense one rests on more tokens, or neither leaves anything out.
struct MeasuredLayer {
  uint32_t layer = 0;
  uint64_t remote_tokens = 0;                 // that the row may see
  uint32_t num_slots = 0;                     // at most limits::kMaxTokenStripes
  ConstAttentionPartialView resident;         // [q_head][head_dim] and [q_head]
  ConstAttentionPartialView answer;           // [slot][q_head][head_dim] and [slot][q_head]
  ConstAttentionPartialView sample;           // likewise
  std::span<const uint32_t> attended_tokens;  // [slot][kv_head]: that the answer rests on
  std::span<const uint32_t> sampled_tokens;   // likewise, the sample
};

// Thread-compatible. Allocates when it is made, not later.
class AttentionQuality {
 public:
  // REQUIRES: a sparse policy, resolved.
  AttentionQuality(const PolicyParams& policy, const AttentionShape& shape, uint32_t num_layers);

  // A continued sequence: what follows is reported apart from what was before, and sampled from its first step on,
  // because the appended prompt has replaced the selections and what was known of them. No head is answered by
  // everything for what it was before.
  void BeginTurn();
  // Begins a step that has remote tokens. True if it is to be measured: IsQualitySample(), counted from the second such
  // step on, because in the first one the nodes may read everything: no step had been when prefill's tokens left.
  bool BeginStep();
  // REQUIRES: BeginStep() was true.
  void AddLayer(const MeasuredLayer& measured);
  // The step has succeeded. Sums over layers and KV heads of what was read, and of what there was.
  void EndStep(uint64_t attended_head_tokens, uint64_t covered_head_tokens);

  // Queries ask for everything: at the head's last sample, what the policy selects would have made the output of some
  // query head of the group wrong by more than max_output_error. The next sample may end that.
  bool wants_dense(uint32_t layer, uint32_t kv_head) const { return HeadOf(layer, kv_head).wants_dense; }

  // The kept mass of the step that runs, or ran last; empty unless it is measured.
  const KeptMassStats& step_kept_mass() const { return step_; }
  // The output errors of the last step that was measured, [layer][q_head], of what was read.
  std::span<const float> step_output_errors() const { return step_errors_; }
  // Of the layer last added, [q_head]: of what the policy selects, whether or not that was read.
  std::span<const float> selected_output_errors() const { return selected_errors_; }

  AttentionQualitySummary Summary() const;

 private:
  struct Head {
    KeptMassStats kept;
    OutputErrorStats error;
    double read_share_sum = 0;  // one addend for each sample
    bool is_dense = false;      // at the last one it read everything, or missed the floor and will from then on
    bool wants_dense = false;
  };
  // Of one query head.
  struct Distances {
    double read = 0;      // |o - o_full|
    double selected = 0;  // the same for what the policy selects, if that was not read
  };

  const Head& HeadOf(uint32_t layer, uint32_t kv_head) const {
    return heads_[size_t{layer} * shape_.num_kv_heads + kv_head];
  }
  // Sets what is merged for the KV head's query heads: the resident partial, and one for each slot.
  void SetPartials(const MeasuredLayer& measured, uint32_t kv_head);
  void AddHead(const MeasuredLayer& measured, uint32_t kv_head, double largest_norm);

  const AttentionShape shape_;
  const double sample_rate_;
  const double min_kept_mass_;
  const double max_output_error_;
  const std::unique_ptr<const AttentionPolicy> policy_;
  std::vector<Head> heads_;  // [layer][kv_head]
  uint64_t num_steps_ = 0;
  uint64_t num_samples_ = 0;
  bool measuring_ = false;
  KeptMassStats step_;
  std::vector<float> step_errors_;      // [layer][q_head]
  std::vector<float> selected_errors_;  // [q_head]
  double attended_head_tokens_ = 0;
  double covered_head_tokens_ = 0;
  // Scratch of AddLayer().
  std::vector<ConstAttentionPartialView> read_, full_, selected_;
  std::vector<Distances> distances_;  // [q_head]
  std::vector<float> kept_;           // [q_head]
};

}  // namespace tributary
