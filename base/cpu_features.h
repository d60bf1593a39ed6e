// What a compiler's own __builtin_cpu_supports() cannot be asked everywhere.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace tributary {

// F16C, conversions between f16 and f32: clang 14 does not know its name. Its registers are AVX's: ask for that, too.
inline bool HasF16c() {
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
#else
  return false;
#endif
}

}  // namespace tributary
