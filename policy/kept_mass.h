// How much of the softmax a selection kept, and what to do when it is too little.
//
// Over one set of tokens T and a selection S of it, the kept mass of a query head is
//   sum_{t in S} exp(s_t) / sum_{t in T} exp(s_t) = exp(lse(S) - lse(T)),
// so a node that attends once to S and once to T needs nothing but the two lse_ln that attention yields anyway.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace tributary {

// The result is in [0, 1]. Where there is nothing to attend to (lse_dense_ln = -inf) it is 1: nothing was lost. NaN
// becomes 0, so that a floor is missed rather than met. What rounding would make more than 1 is 1.
float KeptMass(float lse_sparse_ln, float lse_dense_ln);

// Mean and minimum over samples: of steps, query heads, layers, nodes. The empty one is neutral.
struct KeptMassStats {
  double sum = 0;
  double min = std::numeric_limits<double>::infinity();
  uint64_t count = 0;

  void Add(double kept_mass);
  void Merge(const KeptMassStats& other);
  double mean() const { return count == 0 ? 1.0 : sum / static_cast<double>(count); }
  double minimum() const { return count == 0 ? 1.0 : min; }
};

// True for a share `rate` of the steps 0, 1, 2, ... of a sequence, evenly spread, the first included; never for rate 0.
// By the step's number alone, so that every node samples the same steps. REQUIRES: rate in [0, 1].
bool IsQualitySample(uint64_t step_idx, double rate);

// Which KV heads of one layer of a sequence read everything because their last sample kept too little. A sample
// measures the selection itself, also for a head that reads everything at the moment; so a head returns to its
// selection when that has become good enough.
class DenseFallback {
 public:
  // floor 0: never.
  DenseFallback(uint32_t num_kv_heads, float min_kept_mass) : min_kept_mass_(min_kept_mass), dense_(num_kv_heads, 0) {}

  // `kept_mass`: of the group's query heads; the worst one decides. REQUIRES (checked): kv_head in range.
  void OnSample(uint32_t kv_head, std::span<const float> kept_mass);
  bool IsDense(uint32_t kv_head) const { return dense_[kv_head] != 0; }

 private:
  const float min_kept_mass_;
  std::vector<uint8_t> dense_;
};

}  // namespace tributary
