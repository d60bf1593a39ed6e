// The median of measurements.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace tributary {

// The value in the middle, of an even number the upper one. REQUIRES: there is one.
inline double MedianOf(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace tributary
