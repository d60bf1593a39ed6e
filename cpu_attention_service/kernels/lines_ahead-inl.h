// The order in which the primitives prefetch what a step says comes next (kernel_step.h). Included by them.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cpu_attention_service/kernels/kernel_step.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// What to prefetch while a step is read, a line for a line, in an order of its own: one run of memory front to back,
// slots of a piece list that lie in several places two by two in turn, so that two streams are under way: 0.64 of the
// read ceiling for blocks of 32 tokens instead of 0.55, but 0.63 instead of 0.76 for blocks of 64 (AMD Zen 5).
struct LinesAhead {
  const unsigned char* line;   // the next one
  const unsigned char* after;  // the one after it
  ptrdiff_t step_bytes;        // from a line to the next but one
  uint32_t left;               // lines until `line` and `after` become these:
  const unsigned char* then[2];

  template <uint32_t kCount>
  void Prefetch() {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kCount; ++i) {
      PrefetchCodeLine(line);
      const unsigned char* next = line + step_bytes;
      line = after;
      after = next;
    }
  }
  // Is called after calls of Prefetch for `count` lines in all; it works best if some sum of counts is half of a step's
  // lines.
  void Count(uint32_t count) {
    if (left > count) {
      left -= count;
      return;
    }
    left = ~uint32_t{0};
    line = then[0];
    after = then[1];
  }
};
struct NoLines {
  template <uint32_t kCount>
  void Prefetch() const {}
  void Count(uint32_t) const {}
};

// The lines of `next`, a step's slots of `slot_bytes`.
inline LinesAhead LinesOf(const unsigned char* const* next, uint32_t slot_bytes) {
  constexpr uint32_t kHalf = kKvTileSubgroups / 2;
  const uint32_t half_bytes = kHalf * slot_bytes;
  if (next[kHalf] == next[0] + half_bytes) {
    return {next[0], next[0] + 64, 128, half_bytes / 64, {next[kHalf], next[kHalf] + 64}};
  }
  return {next[0], next[kHalf], 64, half_bytes / 64, {next[1], next[kHalf + 1]}};
}

// Lines front to back from `first` on.
inline LinesAhead LinesFrom(const unsigned char* first) { return {first, first + 64, 128, ~uint32_t{0}, {}}; }

// Whether the slots of a step, `next`, are one run of memory.
inline bool AreOneRun(const unsigned char* const* next, uint32_t slot_bytes) {
  constexpr uint32_t kLast = kKvTileSubgroups - 1;
  return next[kLast] == next[0] + kLast * slot_bytes;
}

// How the codes of the next slots are fetched while these are read. AMD Zen 5, share of the read ceiling:
//   kRun     they are one run of memory: int8 and fp8 front to back, in whatever order the slots are read, int8 0.9
//            instead of 0.78; int4, read four slots at a time, as it is read, 0.86 instead of 0.81
//   kPieces  they lie in several places: two streams (LinesAhead); as it is read, blocks of 32 tokens reach 0.46
//            instead of 0.50 in int8, 0.34 instead of 0.45 in int4
enum class Fetch { kNothing, kRun, kPieces };

inline Fetch FetchOf(const KernelStep& step, const unsigned char* const* next, uint32_t slot_bytes) {
  if (!step.prefetch) return Fetch::kNothing;
  return AreOneRun(next, slot_bytes) ? Fetch::kRun : Fetch::kPieces;
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
