#include "wire/payload_mac.h"

#include <openssl/evp.h>

#include <cstring>

#include "base/check.h"

namespace tributary {

void PayloadMac::Free::operator()(evp_cipher_ctx_st* context) const { EVP_CIPHER_CTX_free(context); }

PayloadMac::PayloadMac(const MacKey& key, uint32_t direction) : context_(EVP_CIPHER_CTX_new()), direction_(direction) {
  TRIBUTARY_CHECK(context_ != nullptr);
  const auto* bytes = reinterpret_cast<const unsigned char*>(key.data());
  TRIBUTARY_CHECK_EQ(EVP_EncryptInit_ex(context_.get(), EVP_aes_128_gcm(), nullptr, bytes, nullptr), 1);
}

// GMAC is GCM that encrypts nothing: the payload is the data that are only authenticated.
PayloadTag PayloadMac::Tag(uint64_t frame_seq, std::span<const std::byte> payload) {
  std::array<unsigned char, 12> nonce;
  std::memcpy(nonce.data(), &direction_, sizeof(direction_));
  std::memcpy(nonce.data() + sizeof(direction_), &frame_seq, sizeof(frame_seq));
  EVP_CIPHER_CTX* context = context_.get();
  const auto* data = reinterpret_cast<const unsigned char*>(payload.data());
  std::array<unsigned char, 16> whole;
  int ignored = 0;
  const bool done =
      EVP_EncryptInit_ex(context, nullptr, nullptr, nullptr, nonce.data()) == 1 &&
      (payload.empty() || EVP_EncryptUpdate(context, nullptr, &ignored, data, static_cast<int>(payload.size())) == 1) &&
      EVP_EncryptFinal_ex(context, whole.data(), &ignored) == 1 &&
      EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, static_cast<int>(whole.size()), whole.data()) == 1;
  TRIBUTARY_CHECK(done);
  PayloadTag tag;
  static_assert(sizeof(tag) == 12);
  std::memcpy(tag.data(), whole.data(), sizeof(tag));
  return tag;
}

}  // namespace tributary
