#include "policy/output_error_stats.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tributary {

void OutputErrorStats::Add(double error) {
  if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
  sum_ += error;
  max_ = std::max(max_, error);
  ++count_;
  ++buckets_[BucketOf(error)];
}

void OutputErrorStats::Merge(const OutputErrorStats& other) {
  sum_ += other.sum_;
  max_ = std::max(max_, other.max_);
  count_ += other.count_;
  for (size_t i = 0; i < kNumBuckets; ++i) buckets_[i] += other.buckets_[i];
}

double OutputErrorStats::Quantile(double share) const {
  const double rank = share * static_cast<double>(count_);
  uint64_t below = 0;
  for (size_t i = 0; i < kNumBuckets; ++i) {
    below += buckets_[i];
    if (below > 0 && static_cast<double>(below) >= rank) return std::min(UpperBound(i), max_);
  }
  return max_;
}

size_t OutputErrorStats::BucketOf(double error) {
  const double octaves = std::log2(error) - kLowestOctave;
  if (!(octaves >= 0)) return 0;  // -inf of 0, too
  const double bucket = 1 + std::floor(octaves * kPerOctave);
  return bucket >= static_cast<double>(kNumBuckets) ? kNumBuckets - 1 : static_cast<size_t>(bucket);
}

double OutputErrorStats::UpperBound(size_t bucket) {
  if (bucket + 1 == kNumBuckets) return std::numeric_limits<double>::infinity();
  return std::exp2(kLowestOctave + static_cast<double>(bucket) / kPerOctave);
}

}  // namespace tributary
