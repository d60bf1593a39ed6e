// A hint that the caller spins: the core saves power and leaves its sibling thread more of itself.
#pragma once

namespace tributary {

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

}  // namespace tributary
