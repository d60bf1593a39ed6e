// AES-128-GMAC (NIST SP 800-38D), cut to 96 bits, by OpenSSL: 5 to 20 GB/s on a core. Each tag of one key needs a nonce
// of its own: here the direction and the number of a frame.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "wire/frame.h"

struct evp_cipher_ctx_st;  // openssl/types.h

namespace tributary {

using MacKey = std::array<std::byte, 16>;

// Thread-compatible.
class PayloadMac {
 public:
  PayloadMac(const MacKey& key, uint32_t direction);

  // The tag of the frame with this number. REQUIRES: one payload per number.
  PayloadTag Tag(uint64_t frame_seq, std::span<const std::byte> payload);

 private:
  struct Free {
    void operator()(evp_cipher_ctx_st* context) const;
  };
  std::unique_ptr<evp_cipher_ctx_st, Free> context_;
  uint32_t direction_;
};

}  // namespace tributary
