// Tags that bind a frame to its session and show what changed on the way.
//
// The header's tag is SipHash-2-4 under the session's key. It covers the header, and in it the payload's tag, which is
// - a CRC-32C: every change of up to 32 successive bits is found, any other by 1 - 2^-32; or
// - if both sides have asked for it (--data-plane-mac), an AES-128-GMAC of 96 bits, which also finds what somebody
//   changed on purpose.
// Neither hides anything.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/siphash.h"
#include "wire/frame.h"
#include "wire/payload_mac.h"

namespace tributary {

// What the two sides of a session share. Only their handshake over the control plane carries it.
struct SessionKeys {
  SipKey header{};
  std::optional<MacKey> payload;  // nullopt: payloads have a CRC
};

enum class FrameDirection : uint32_t { kToNode = 1, kToWorker = 2 };

// Seals a frame with a CRC: fills magic, version, payload_bytes and both tags. Call last: the tags cover all other
// fields.
void SealFrame(const SipKey& key, FrameHeader& header, std::span<const std::byte> payload);
// The header alone: fills magic, version and its tag.
void SealHeader(const SipKey& key, FrameHeader& header);
// True if the header's tag was made with this key.
bool VerifyHeader(const SipKey& key, const FrameHeader& header);
// True if the payload has the header's CRC.
bool VerifyPayload(const FrameHeader& header, std::span<const std::byte> payload);

// The tags of one direction of a session: one side seals, the other verifies. Thread-compatible. Allocates when it is
// made, not for frames.
class FrameSeal {
 public:
  FrameSeal() = default;
  FrameSeal(const SessionKeys& keys, FrameDirection direction);

  // Does what SealFrame() does. REQUIRES: no other frame of this direction has its frame_seq.
  void Seal(FrameHeader& header, std::span<const std::byte> payload);
  bool VerifyHeader(const FrameHeader& header) const { return tributary::VerifyHeader(key_, header); }
  // REQUIRES: the header is verified.
  bool VerifyPayload(const FrameHeader& header, std::span<const std::byte> payload);

 private:
  SipKey key_{};
  std::optional<PayloadMac> mac_;
};

}  // namespace tributary
