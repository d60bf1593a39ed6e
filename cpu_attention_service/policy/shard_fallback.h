// Which KV heads of a shard are answered by everything though their policy left tokens out, and the second attention by
// which the selections of measured queries are judged. One mechanism for all policies, which only say what they select:
//
//   dense heads     the query names them; the worker has seen that their merged output is too wrong (wire/frame.h).
//                   Nothing is remembered here
//   min_kept_mass   the head's selection kept less of this shard's softmax at its last sample: from the next query on,
//                   until a later sample finds its selection good enough
//
// A measured query attends twice: the head's answer, and what it is not (ReadPlan::sample). So the answer is the same
// whether the query is measured or not, and the selection of a head that fell back is measured, too.
#pragma once

#include <cstdint>
#include <vector>

#include "cluster/shard_spec.h"
#include "cpu_attention_service/policy/shard_policy.h"
#include "policy/kept_mass.h"

namespace tributary {

// Of one shard of a policy that keeps state on the node. Thread-compatible.
class ShardFallback {
 public:
  explicit ShardFallback(const ShardSpec& spec);

  // kOk, or kMalformed for bits of KV heads that the shard does not hold.
  static FrameError CheckDenseHeads(const ReadRequest& request, uint32_t num_kv_heads);

  // The policy has planned, PlanHead() included: heads that are to read everything do, without weights, and a measured
  // query gets its sample.
  void CompletePlan(const ReadRequest& request, ReadPlan* plan) const;
  // Of a measured query: decides which heads fall back from the next one on, and appends the kept mass of each query
  // head that has a selection to `kept_mass`.
  void OnSampled(const ReadRequest& request, const ReadPlan& plan, const SampledPartials& partials,
                 std::vector<float>* kept_mass);
  // KV heads, over all layers, that fell back because their selection kept too little.
  uint32_t num_heads() const { return num_heads_; }

 private:
  DenseFallback& OfLayer(uint32_t layer) { return layers_[layer - layer_begin_]; }

  const uint32_t layer_begin_;
  const uint32_t group_size_;
  std::vector<DenseFallback> layers_;  // [layer held]
  uint32_t num_heads_ = 0;
};

}  // namespace tributary
