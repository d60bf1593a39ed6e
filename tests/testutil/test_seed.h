// Fresh random inputs in each run; TRIBUTARY_TEST_SEED replays one. Put the seed into a
// SCOPED_TRACE.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>

namespace tributary {

inline uint64_t TestSeed() {
  const char* text = std::getenv("TRIBUTARY_TEST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device()();
}

}  // namespace tributary
