// Choosing blocks by their scores, written once against the primitives of a select_lanes_*.h (`Lanes`). A source that
// instantiates it defines the namespace TRIBUTARY_KERNEL_ISA, includes its lanes and then this file.
//
// Selection is a search for a threshold, not a sort: count how many scores reach a candidate threshold, halve the
// interval, and write the ids in one last pass, in which they come out in order. Each pass reads scores that lie in the
// L1 or L2 cache; nth_element, which moves ids about, takes ten times as long.
#include <math.h>

#include "cpu_attention_service/kernels/selection/block_selection_args.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

inline uint32_t LanesBits(uint32_t lanes) { return lanes >= 32 ? ~0u : (1u << lanes) - 1; }

// Floats as integers of the same order: neighbouring floats are neighbouring integers.
inline int64_t OrderedKey(float value) {
  int32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits >= 0 ? bits : -int64_t{bits & 0x7fffffff};
}
inline float FromOrderedKey(int64_t key) {
  const auto magnitude = static_cast<uint32_t>(key >= 0 ? key : -key);
  const uint32_t bits = key >= 0 ? magnitude : magnitude | 0x80000000u;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// Scores that are not less than the threshold: NaN is never less.
inline uint32_t CountNotLess(const float* scores, uint32_t n, float threshold) {
  const Lanes::F limit = Lanes::BroadcastF(threshold);
  Lanes::I counts[4] = {Lanes::ZeroI(), Lanes::ZeroI(), Lanes::ZeroI(), Lanes::ZeroI()};
  uint32_t i = 0;
  for (; i + 4 * Lanes::kLanes <= n; i += 4 * Lanes::kLanes) {
    for (uint32_t j = 0; j < 4; ++j) {
      counts[j] = Lanes::CountNotLess(counts[j], Lanes::LoadF(scores + i + j * Lanes::kLanes), limit);
    }
  }
  uint32_t count = Lanes::ReduceAdd(Lanes::AddI(Lanes::AddI(counts[0], counts[1]), Lanes::AddI(counts[2], counts[3])));
  for (; i < n; ++i) count += !(scores[i] < threshold);
  return count;
}

struct Range {
  float low = INFINITY;  // of the numbers
  float high = -INFINITY;
  uint32_t num_nan = 0;
};

inline Range FindRange(const float* scores, uint32_t n) {
  Lanes::F low = Lanes::BroadcastF(INFINITY);
  Lanes::F high = Lanes::BroadcastF(-INFINITY);
  Lanes::I nan = Lanes::ZeroI();
  uint32_t i = 0;
  for (; i + Lanes::kLanes <= n; i += Lanes::kLanes) {
    const Lanes::F x = Lanes::LoadF(scores + i);
    low = Lanes::MinNumber(x, low);  // keeps the second operand if the first is NaN
    high = Lanes::MaxNumber(x, high);
    nan = Lanes::CountNan(nan, x);
  }
  Range range{Lanes::ReduceMin(low), Lanes::ReduceMax(high), Lanes::ReduceAdd(nan)};
  for (; i < n; ++i) {
    if (scores[i] < range.low) range.low = scores[i];
    if (scores[i] > range.high) range.high = scores[i];
    range.num_nan += scores[i] != scores[i];
  }
  return range;
}

// The lowest `keep` set bits.
inline uint32_t LowestBits(uint32_t bits, uint32_t keep) {
  uint32_t kept = 0;
  for (; keep != 0 && bits != 0; --keep) {
    kept |= bits & -bits;
    bits &= bits - 1;
  }
  return kept;
}

// Ids of the lanes of `over`, and of as many lanes of `ties` as are left in `*num_ties`.
inline uint32_t* EmitLanes(uint32_t first_id, uint32_t over, uint32_t ties, uint32_t* num_ties, uint32_t* ids) {
  if (ties != 0 && *num_ties != 0) {
    const auto count = static_cast<uint32_t>(__builtin_popcount(ties));
    if (count > *num_ties) ties = LowestBits(ties, *num_ties);
    *num_ties -= count < *num_ties ? count : *num_ties;
    over |= ties;
  }
  if (over == 0) return ids;
  return Lanes::Compress(first_id, over, ids);
}

// Ids of the scores above the threshold (or NaN) and of the first `num_ties` that equal it.
inline uint32_t EmitAbove(const float* scores, uint32_t n, float threshold, uint32_t num_ties, uint32_t* ids) {
  const Lanes::F limit = Lanes::BroadcastF(threshold);
  uint32_t* to = ids;
  uint32_t i = 0;
  for (; i + Lanes::kLanes <= n; i += Lanes::kLanes) {
    const Lanes::F x = Lanes::LoadF(scores + i);
    to = EmitLanes(i, Lanes::NotLessEqual(x, limit), Lanes::Equal(x, limit), &num_ties, to);
  }
  for (; i < n; ++i) {
    to = EmitLanes(i, !(scores[i] <= threshold), scores[i] == threshold, &num_ties, to);
  }
  return static_cast<uint32_t>(to - ids);
}

inline uint32_t EmitNan(const float* scores, uint32_t n, uint32_t k, uint32_t* ids) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < n && count < k; ++i) {
    if (scores[i] != scores[i]) ids[count++] = i;
  }
  return count;
}

// Top k as a threshold: the scores above it, and the first `num_ties` of those that equal it.
struct Cut {
  float threshold;
  uint32_t num_ties;
};

// When no more scores than that are left between the bounds, they are gathered, and searched in the L1 cache.
constexpr uint32_t kMaxGathered = 512;

// The scores in [low, high), at most kMaxGathered.
inline uint32_t GatherBetween(const float* scores, uint32_t n, float low, float high, float* to) {
  const Lanes::F low_lanes = Lanes::BroadcastF(low);
  const Lanes::F high_lanes = Lanes::BroadcastF(high);
  float* end = to;
  uint32_t i = 0;
  for (; i + Lanes::kLanes <= n; i += Lanes::kLanes) {
    const Lanes::F x = Lanes::LoadF(scores + i);
    const uint32_t bits = Lanes::NotLess(x, low_lanes) & ~Lanes::NotLess(x, high_lanes);
    if (bits != 0) end = Lanes::CompressF(x, bits, end);
  }
  for (; i < n; ++i) {
    if (scores[i] >= low && scores[i] < high) *end++ = scores[i];
  }
  return static_cast<uint32_t>(end - to);
}

inline float Middle(float low, float high, int step) {
  // Halves the interval of values, which takes some 15 steps; after too many of them that of the representable numbers,
  // which ends whatever the scores are.
  constexpr int kValueSteps = 24;
  const float middle = 0.5f * low + 0.5f * high;
  if (step < kValueSteps && middle > low && middle < high) return middle;
  const int64_t low_key = OrderedKey(low);
  return FromOrderedKey(low_key + (OrderedKey(high) - low_key) / 2);
}

// REQUIRES: more than range.num_nan and less than n.
Cut FindCut(const float* scores, uint32_t n, uint32_t k, Range range) {
  float low = range.low;    // reached by num_low scores, k or more
  float high = range.high;  // reached by num_high scores, fewer
  uint32_t num_low = n;
  uint32_t num_high = CountNotLess(scores, n, high);
  if (num_high >= k) return {high, k - range.num_nan};
  for (int step = 0;; ++step) {
    if (num_low - num_high <= kMaxGathered && n > kMaxGathered) {
      alignas(64) float gathered[kMaxGathered + kSelectSlack];
      const uint32_t count = GatherBetween(scores, n, low, high, gathered);
      if (count == k - num_high) return {low, n};
      return FindCut(gathered, count, k - num_high, FindRange(gathered, count));
    }
    const float middle = Middle(low, high, step);
    if (middle == low) return {low, k - num_high};  // neighbours: what lies between equals `low`
    const uint32_t count = CountNotLess(scores, n, middle);
    if (count == k) return {middle, n};
    if (count > k) {
      low = middle;
      num_low = count;
    } else {
      high = middle;
      num_high = count;
    }
  }
}

uint32_t SelectTopK(const float* scores, uint32_t n, uint32_t k, uint32_t* ids) {
  if (k >= n) {
    for (uint32_t i = 0; i < n; ++i) ids[i] = i;
    return n;
  }
  if (k == 0) return 0;
  const Range range = FindRange(scores, n);
  if (range.num_nan >= k) return EmitNan(scores, n, k, ids);
  const Cut cut = FindCut(scores, n, k, range);
  return EmitAbove(scores, n, cut.threshold, cut.num_ties, ids);
}

uint32_t SelectThreshold(const float* scores, uint32_t n, float threshold, uint32_t* ids) {
  return EmitAbove(scores, n, threshold, n, ids);
}

constexpr float kFixedOne = 16777216.0f;       // the largest finite weight, 2^24
constexpr uint32_t kFixedAlways = 0x7fffffff;  // NaN and infinity
constexpr float kLeastWeight = 0x1p-100f;      // less than that counts as 0

// Sum of those that are >= threshold. `n` is a multiple of 16.
inline uint64_t SumFrom(const uint32_t* fixed, uint32_t n, uint32_t threshold) {
  constexpr uint32_t kFlush = 64 * Lanes::kLanes;  // 64 sums of at most 2^24 stay below 2^31
  const Lanes::I low = Lanes::BroadcastI(threshold);
  const Lanes::I width = Lanes::BroadcastI(static_cast<uint32_t>(kFixedOne) - threshold);
  uint64_t sum = 0;
  for (uint32_t begin = 0; begin < n; begin += kFlush) {
    const uint32_t end = n - begin < kFlush ? n : begin + kFlush;
    Lanes::I lanes = Lanes::ZeroI();
    for (uint32_t i = begin; i < end; i += Lanes::kLanes) {
      const Lanes::I x = Lanes::LoadI(fixed + i);
      lanes = Lanes::AddIfAtMost(lanes, x, Lanes::SubI(x, low), width);
    }
    sum += Lanes::ReduceAddWide(lanes);
  }
  return sum;
}

inline float LargestFinite(const float* weights, uint32_t n) {
  Lanes::F high = Lanes::BroadcastF(0.0f);
  uint32_t i = 0;
  for (; i + Lanes::kLanes <= n; i += Lanes::kLanes) {
    high = Lanes::MaxFinite(Lanes::LoadF(weights + i), high);
  }
  float largest = Lanes::ReduceMax(high);
  for (; i < n; ++i) {
    if (weights[i] > largest && weights[i] < INFINITY) largest = weights[i];
  }
  return largest;
}

// fixed[i] = weights[i] as a multiple of 2^-24 largest weights; zeros up to a multiple of 16. The sum of the numbers.
inline uint64_t ToFixed(const float* weights, uint32_t n, uint32_t* fixed) {
  const float largest = LargestFinite(weights, n);
  const float scale = largest < kLeastWeight ? 0.0f : kFixedOne / largest;
  uint32_t i = 0;
  for (; i + Lanes::kLanes <= n; i += Lanes::kLanes) {
    Lanes::StoreI(fixed + i, Lanes::ToFixed(Lanes::LoadF(weights + i), largest, scale, kFixedAlways));
  }
  for (; i < n; ++i) {
    const float weight = weights[i];
    fixed[i] = weight <= largest ? static_cast<uint32_t>(lrintf((weight > 0 ? weight : 0.0f) * scale)) : kFixedAlways;
  }
  for (; i % 16 != 0; ++i) fixed[i] = 0;
  return SumFrom(fixed, i, 0);
}

uint32_t SelectTopP(const float* weights, uint32_t n, double p, uint32_t* fixed, uint32_t* ids) {
  const uint64_t total = ToFixed(weights, n, fixed);
  const uint32_t padded = (n + 15) / 16 * 16;
  uint32_t threshold = static_cast<uint32_t>(kFixedOne) + 1;  // none but NaN and infinity
  uint32_t num_ties = 0;
  if (total != 0) {
    auto wanted = static_cast<uint64_t>(ceil(p * static_cast<double>(total)));
    if (wanted < 1) wanted = 1;
    if (wanted > total) wanted = total;
    uint32_t low = 1;                                      // reached by the sum that is wanted
    uint32_t high = static_cast<uint32_t>(kFixedOne) + 1;  // not
    while (high - low > 1) {
      const uint32_t middle = low + (high - low) / 2;
      (SumFrom(fixed, padded, middle) >= wanted ? low : high) = middle;
    }
    threshold = low;
    const uint64_t above = high > static_cast<uint32_t>(kFixedOne) ? 0 : SumFrom(fixed, padded, high);
    num_ties = static_cast<uint32_t>((wanted - above + threshold - 1) / threshold);
  }
  const Lanes::I limit = Lanes::BroadcastI(threshold);
  uint32_t* to = ids;
  for (uint32_t i = 0; i < padded; i += Lanes::kLanes) {
    const Lanes::I x = Lanes::LoadI(fixed + i);
    to = EmitLanes(i, Lanes::Greater(x, limit), Lanes::EqualI(x, limit), &num_ties, to);
  }
  return static_cast<uint32_t>(to - ids);
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
