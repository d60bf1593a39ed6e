// Random inputs for the tests of this folder.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

#include "tests/testutil/test_seed.h"

namespace tributary::testing {

using ::tributary::TestSeed;

inline std::vector<float> RandomFloats(size_t count, std::mt19937_64& random, float sigma = 1.0f) {
  std::normal_distribution<float> normal(0.0f, sigma);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

}  // namespace tributary::testing
