// Random numbers that are the same for a seed on every machine and with every standard library, so that a workload can
// be named by its seed.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace tributary {

// SplitMix64 (Steele, Lea, Flood 2014).
class EvalRandom {
 public:
  explicit EvalRandom(uint64_t seed) : state_(seed) {}
  // One stream per combination of values.
  EvalRandom(uint64_t seed, std::initializer_list<uint64_t> values) : state_(seed) {
    for (const uint64_t value : values) state_ = Next() ^ value;
  }

  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // Uniform in [0, bound), but for a bias below bound / 2^64. REQUIRES: bound > 0.
  uint64_t Below(uint64_t bound) { return Next() % bound; }
  // Uniform in [0, 1).
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }

 private:
  uint64_t state_;
};

}  // namespace tributary
