#include "base/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace tributary {

uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t before) {
  constexpr size_t kMaxCallBytes = size_t{1} << 30;  // ISA-L counts in an int
  uint32_t state = ~before;
  while (!bytes.empty()) {
    const size_t count = std::min(bytes.size(), kMaxCallBytes);
    // ISA-L only reads.
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
    state = crc32_iscsi(data, static_cast<int>(count), state);
    bytes = bytes.subspan(count);
  }
  return ~state;
}

}  // namespace tributary
