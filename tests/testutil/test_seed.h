// The seed of a test's random inputs: the same in each run, another one for each test, so that a run proves the same as
// the one before it. TRIBUTARY_TEST_SEED=<number> sets it, TRIBUTARY_TEST_SEED=random draws a fresh one (./dev fuzz);
// it is shown when a test fails.
//
//   const uint64_t seed = TestSeed();
//   SCOPED_TRACE(SeedTrace(seed));
//   std::mt19937_64 random(seed);
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <string_view>

namespace tributary {

inline uint64_t TestSeed() {
  const char* text = std::getenv("TRIBUTARY_TEST_SEED");
  if (text != nullptr && std::string_view(text) == "random") {
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
  }
  if (text != nullptr) return std::strtoull(text, nullptr, 10);
  const testing::TestInfo* const test = testing::UnitTest::GetInstance()->current_test_info();
  if (test == nullptr) return 1;
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a of the test's name: std::hash may differ between libraries
  for (const std::string_view part : {std::string_view(test->test_suite_name()), std::string_view(test->name())}) {
    for (const char c : part) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  }
  return hash;
}

inline std::string SeedTrace(uint64_t seed) { return "repeat with TRIBUTARY_TEST_SEED=" + std::to_string(seed); }

// Uniform in [low, high].
template <typename Int>
Int RandomInt(std::mt19937_64& random, Int low, Int high) {
  return std::uniform_int_distribution<Int>(low, high)(random);
}

}  // namespace tributary
