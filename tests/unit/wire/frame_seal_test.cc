#include "wire/frame_seal.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testutil/sample_frames.h"

namespace tributary {
namespace {

constexpr MacKey kMacKey = {std::byte{0x10}, std::byte{0x32}, std::byte{0x54}, std::byte{0x76}};

// What a receiver does before it believes anything: true if the frame is let through.
bool IsBelieved(FrameSeal& seal, std::span<const std::byte> frame) {
  const std::span<const std::byte> payload = frame.subspan(kFrameHeaderBytes);
  FrameHeader header;
  return DecodeHeader(frame.first(kFrameHeaderBytes), payload.size(), &header) == FrameError::kOk &&
         seal.VerifyHeader(header) && seal.VerifyPayload(header, payload);
}

std::vector<std::byte> Bytes(const SampleFrame& frame) {
  const std::span<const std::byte> header = std::as_bytes(std::span(&frame.header, 1));
  std::vector<std::byte> bytes(header.begin(), header.end());
  bytes.insert(bytes.end(), frame.payload.begin(), frame.payload.end());
  return bytes;
}

class FrameSealTest : public testing::TestWithParam<bool> {
 protected:
  SessionKeys keys() const {
    return GetParam() ? SessionKeys{kSampleKey, kMacKey} : SessionKeys{kSampleKey, std::nullopt};
  }
  SampleFrame Sealed(FrameType type) {
    SampleFrame frame = MakeSampleFrame(random_, type);
    seal_.Seal(frame.header, frame.payload);
    return frame;
  }

  std::mt19937_64 random_{4};
  FrameSeal seal_{keys(), FrameDirection::kToNode};
  FrameSeal receiver_{keys(), FrameDirection::kToNode};
};

TEST_P(FrameSealTest, WhatWasSealedIsBelieved) {
  for (int round = 0; round < 20; ++round) {
    for (const FrameType type : kAllFrameTypes) EXPECT_TRUE(IsBelieved(receiver_, Bytes(Sealed(type))));
  }
}

// The promise of version 4: no flipped bit, in any frame, in header, body, entries, data, sections or fill.
TEST_P(FrameSealTest, EverySingleBitOfEveryFrameIsGuarded) {
  for (int round = 0; round < 4; ++round) {
    for (const FrameType type : kAllFrameTypes) {
      std::vector<std::byte> bytes = Bytes(Sealed(type));
      for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
        const std::byte mask = std::byte{1} << (bit % 8);
        bytes[bit / 8] ^= mask;
        ASSERT_FALSE(IsBelieved(receiver_, bytes)) << "type " << int(type) << " bit " << bit << " of " << bytes.size();
        bytes[bit / 8] ^= mask;
      }
      ASSERT_TRUE(IsBelieved(receiver_, bytes));
    }
  }
}

TEST_P(FrameSealTest, BurstsAndSwapsAreFound) {
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::byte> bytes = Bytes(Sealed(kAllFrameTypes[random_() % std::size(kAllFrameTypes)]));
    const std::vector<std::byte> good = bytes;
    if (round % 2 == 0) {  // a burst of up to 64 bits
      const size_t begin = random_() % (bytes.size() - 8);
      for (size_t i = 0; i < 8; ++i) bytes[begin + i] ^= static_cast<std::byte>(random_());
    } else {  // two words change places
      const size_t a = random_() % (bytes.size() / 4), b = random_() % (bytes.size() / 4);
      if (a != b) std::swap_ranges(&bytes[a * 4], &bytes[a * 4] + 4, &bytes[b * 4]);
    }
    EXPECT_EQ(IsBelieved(receiver_, bytes), bytes == good);
  }
}

TEST_P(FrameSealTest, OtherKeysAreNotBelieved) {
  const SampleFrame frame = Sealed(FrameType::kSpill);
  SessionKeys other = keys();
  other.header[1] ^= 1;
  EXPECT_FALSE(FrameSeal(other, FrameDirection::kToNode).VerifyHeader(frame.header));
  if (!GetParam()) return;
  other = keys();
  (*other.payload)[15] ^= std::byte{1};
  EXPECT_FALSE(FrameSeal(other, FrameDirection::kToNode).VerifyPayload(frame.header, frame.payload));
  EXPECT_FALSE(FrameSeal(keys(), FrameDirection::kToWorker).VerifyPayload(frame.header, frame.payload))
      << "a frame of the other direction";
}

// Somebody who can compute CRCs, but has no key, changes a payload.
TEST_P(FrameSealTest, OnlyAMacStopsWhoKnowsTheHeaderKeyButNotThePayloads) {
  SampleFrame frame = Sealed(FrameType::kPartial);
  frame.payload[frame.payload.size() / 2] ^= std::byte{1};
  SealFrame(kSampleKey, frame.header, frame.payload);
  EXPECT_EQ(IsBelieved(receiver_, Bytes(frame)), !GetParam());
}

TEST_P(FrameSealTest, TheNumberIsPartOfAMac) {
  SampleFrame first = Sealed(FrameType::kHeartbeat);
  SampleFrame second = first;
  ++second.header.frame_seq;
  seal_.Seal(second.header, second.payload);
  EXPECT_EQ(first.header.payload_tag == second.header.payload_tag, !GetParam());
  EXPECT_TRUE(IsBelieved(receiver_, Bytes(second)));
}

INSTANTIATE_TEST_SUITE_P(Tags, FrameSealTest, testing::Bool(),
                         [](const auto& info) { return std::string(info.param ? "Mac" : "Crc"); });

// Test case 1 of the GCM specification (McGrew and Viega): AES-128, key 0, nonce 0, nothing to authenticate gives
// 58e2fccefa7e3061367f1d57a4e7455a, here cut to 96 bits.
TEST(PayloadMacTest, KnownValue) {
  PayloadMac mac(MacKey{}, /*direction=*/0);
  EXPECT_EQ(mac.Tag(0, {}), (PayloadTag{0xcefce258u, 0x61307efau, 0x571d7f36u}));
}

}  // namespace
}  // namespace tributary
