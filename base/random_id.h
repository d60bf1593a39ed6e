// Ids that nobody can guess and that no earlier run has used: random 64-bit numbers, never 0. And the secret bytes of
// session keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace tributary {

// Makes one id per call, never 0. Cores get theirs injected, so that a simulation's seed replays its ids, too.
using IdSource = std::function<uint64_t()>;

// Fills `bytes` from the operating system's generator (getrandom). Thread-safe; waits only early in the system's boot.
void FillRandom(std::span<std::byte> bytes);

// The IdSource of services: ids from FillRandom().
uint64_t RandomId();

// The IdSource of tests and simulations: the same seed gives the same ids. Not for keys.
IdSource SeededIds(uint64_t seed);

}  // namespace tributary
