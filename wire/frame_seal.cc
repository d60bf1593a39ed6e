#include "wire/frame_seal.h"

#include "base/check.h"
#include "base/crc32c.h"

namespace tributary {
namespace {

uint64_t HeaderTag(const SipKey& key, FrameHeader header) {
  header.auth_tag = 0;
  return SipHash24(key, std::as_bytes(std::span(&header, 1)));
}

PayloadTag CrcTag(std::span<const std::byte> payload) { return {Crc32c(payload), 0, 0}; }

void SealWith(const SipKey& key, FrameHeader& header, size_t payload_bytes, const PayloadTag& payload_tag) {
  header.payload_bytes = static_cast<uint32_t>(payload_bytes);
  header.payload_tag = payload_tag;
  SealHeader(key, header);
}

}  // namespace

void SealHeader(const SipKey& key, FrameHeader& header) {
  header.magic = kFrameMagic;
  header.version = kFrameVersion;
  header.auth_tag = HeaderTag(key, header);
}

void SealFrame(const SipKey& key, FrameHeader& header, std::span<const std::byte> payload) {
  SealWith(key, header, payload.size(), CrcTag(payload));
}

bool VerifyHeader(const SipKey& key, const FrameHeader& header) { return header.auth_tag == HeaderTag(key, header); }

bool VerifyPayload(const FrameHeader& header, std::span<const std::byte> payload) {
  return header.payload_tag == CrcTag(payload);
}

FrameSeal::FrameSeal(const SessionKeys& keys, FrameDirection direction) : key_(keys.header) {
  if (keys.payload) mac_.emplace(*keys.payload, static_cast<uint32_t>(direction));
}

void FrameSeal::Seal(FrameHeader& header, std::span<const std::byte> payload) {
  SealWith(key_, header, payload.size(), mac_ ? mac_->Tag(header.frame_seq, payload) : CrcTag(payload));
}

bool FrameSeal::VerifyPayload(const FrameHeader& header, std::span<const std::byte> payload) {
  if (!mac_) return tributary::VerifyPayload(header, payload);
  // The header's tag guards the payload's against being guessed piece by piece, so this need not take constant time.
  return header.payload_tag == mac_->Tag(header.frame_seq, payload);
}

}  // namespace tributary
