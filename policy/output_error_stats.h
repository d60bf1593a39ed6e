// Mean, maximum and quantiles of output errors (attention/output_error.h) over samples: of steps, query heads, layers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace tributary {

// The quantiles come from a histogram of fixed, log-spaced buckets, four to a factor of two from 2^-24, which is where
// f32 rounds, to 4. Allocates nothing.
class OutputErrorStats {
 public:
  // Not negative. NaN counts as infinite, so that a limit is missed rather than met.
  void Add(double error);
  void Merge(const OutputErrorStats& other);

  uint64_t count() const { return count_; }
  double mean() const { return count_ == 0 ? 0.0 : sum_ / static_cast<double>(count_); }
  double maximum() const { return max_; }
  // The least bound of a bucket that at least `share` of the samples do not exceed, and no more than the maximum: at
  // most 19 % above the sample of that rank. 0 without samples.
  double Quantile(double share) const;

 private:
  static constexpr int kPerOctave = 4, kLowestOctave = -24, kHighestOctave = 2;
  // One below the first bound, one above the last.
  static constexpr size_t kNumBuckets = size_t{kPerOctave} * (kHighestOctave - kLowestOctave) + 2;

  static size_t BucketOf(double error);
  static double UpperBound(size_t bucket);

  double sum_ = 0;
  double max_ = 0;
  uint64_t count_ = 0;
  std::array<uint32_t, kNumBuckets> buckets_{};
};

}  // namespace tributary
