#include "model/forget_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace tributary {

void ForgetPages(std::span<const std::byte> bytes) {
  static const auto page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(bytes.data()) + page_bytes - 1) / page_bytes * page_bytes;
  const auto end = reinterpret_cast<uintptr_t>(bytes.data() + bytes.size()) / page_bytes * page_bytes;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace tributary
