// Fresh random inputs for every test run, and the same ones again: the seed is shown when a test
// fails, and TRIBUTARY_TEST_SEED=<number> repeats a run.
//
//   const uint64_t seed = TestSeed();
//   SCOPED_TRACE(SeedTrace(seed));
//   std::mt19937_64 random(seed);
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>

namespace tributary {

inline uint64_t TestSeed() {
  if (const char* text = std::getenv("TRIBUTARY_TEST_SEED"); text != nullptr) {
    return std::strtoull(text, nullptr, 10);
  }
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

inline std::string SeedTrace(uint64_t seed) { return "repeat with TRIBUTARY_TEST_SEED=" + std::to_string(seed); }

// Uniform in [low, high].
template <typename Int>
Int RandomInt(std::mt19937_64& random, Int low, Int high) {
  return std::uniform_int_distribution<Int>(low, high)(random);
}

}  // namespace tributary
