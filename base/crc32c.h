// CRC-32C (Castagnoli; RFC 3720, appendix B.4), by ISA-L: with the processor's carry-less multiplications where there
// are some (40 to 60 GB/s on a core with AVX-512), else by its CRC instruction or a table. It finds every change of up
// to 32 successive bits, and any other with a probability of 1 - 2^-32. It is no protection against intent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tributary {

// Returns the CRC of `bytes`, or, given the CRC of what lies before them, that of both together. The CRC of nothing is
// 0.
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

}  // namespace tributary
