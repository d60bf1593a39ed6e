// Fresh random inputs for the tests of this folder.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

namespace tributary::testing {

// A new seed per run, or the one in TRIBUTARY_TEST_SEED; put it into SCOPED_TRACE.
inline uint64_t TestSeed() {
  const char* text = std::getenv("TRIBUTARY_TEST_SEED");
  if (text != nullptr) return std::strtoull(text, nullptr, 10);
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

inline std::vector<float> RandomFloats(size_t count, std::mt19937_64& random, float sigma = 1.0f) {
  std::normal_distribution<float> normal(0.0f, sigma);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

}  // namespace tributary::testing
