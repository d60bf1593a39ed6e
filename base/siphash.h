// SipHash-2-4: a keyed 64-bit tag over a short message (Aumasson and Bernstein, "SipHash: a fast short-input PRF",
// 2012). It binds a frame header to its session; it hides nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tributary {

using SipKey = std::array<uint64_t, 2>;

uint64_t SipHash24(const SipKey& key, std::span<const std::byte> message);

}  // namespace tributary
