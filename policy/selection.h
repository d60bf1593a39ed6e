// Which units (tokens, or blocks of them) a sparse policy reads, given how salient each is. Every policy ends here:
// it differs in what a salience is, who computes it and when, and in the rule (policy/README.md).
//
// SelectUnits is the plain form, for any rule; the selections of
// cpu_attention_service/kernels/selection/block_selection_args.h are vectorised forms of top-k and threshold, and
// choose the same.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace tributary {

// The order of saliences everywhere: NaN is above every number.
inline bool IsMoreSalient(float a, float b) { return std::isnan(a) ? !std::isnan(b) : a > b; }

// keep = clamp(number of units with salience >= threshold, keep_min, keep_max); never more than there are.
//   everything:         the default
//   threshold + floor:  threshold > 0, keep_min
//   top-k:              threshold = +inf, keep_min = keep_max = k
struct SelectionRule {
  float threshold = 0;  // 0 or less: every unit passes, whatever its salience
  uint64_t keep_min = 0;
  uint64_t keep_max = std::numeric_limits<uint64_t>::max();  // wins over keep_min

  friend bool operator==(const SelectionRule&, const SelectionRule&) = default;
};

// Writes the kept units' indices, ascending, to *kept (resized; its capacity is reused, so a vector that has once held
// as many units allocates nothing). Ascending, so that a gather reads forward and a selection of everything is the
// plain order of a dense read, bit for bit.
//
// Of equal saliences the lower index is kept. NaN counts as larger than every number: what nobody can judge is read,
// never silently dropped. O(n). REQUIRES (checked): fewer than 2^32 units.
void SelectUnits(const SelectionRule& rule, std::span<const float> salience, std::vector<uint32_t>* kept);

}  // namespace tributary
