// A short seeded run of the fuzzed entry function under any compiler: valid frames, broken in a few
// places.
#include <vector>

#include "gtest/gtest.h"
#include "tests/fuzz/frame_fuzz_entry.h"
#include "tests/testutil/sample_frames.h"

namespace tributary {
namespace {

std::vector<std::byte> Bytes(const SampleFrame& frame) {
  const std::span<const std::byte> header = std::as_bytes(std::span(&frame.header, 1));
  std::vector<std::byte> bytes(header.begin(), header.end());
  bytes.insert(bytes.end(), frame.payload.begin(), frame.payload.end());
  return bytes;
}

void Break(std::mt19937_64& random, std::vector<std::byte>& bytes) {
  if (bytes.empty()) return;
  const size_t at = RandomInt<size_t>(random, 0, bytes.size() - 1);
  switch (RandomInt(random, 0, 4)) {
    case 0:
      bytes[at] ^= std::byte{1} << RandomInt(random, 0, 7);
      break;
    case 1:
      bytes[at] = static_cast<std::byte>(random());
      break;
    case 2:  // a field that becomes all ones
      for (size_t i = at / 4 * 4; i < std::min(bytes.size(), at / 4 * 4 + 4); ++i) bytes[i] = std::byte{0xff};
      break;
    case 3:
      bytes.resize(at);
      break;
    default:
      bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), static_cast<std::byte>(random()));
      break;
  }
  bytes.shrink_to_fit();
}

TEST(FrameFuzzTest, BrokenFramesDoNoHarm) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::printf("%s\n",
              SeedTrace(seed).c_str());  // a sanitizer's report ends the process before the trace is shown
  std::mt19937_64 random(seed);
  for (int round = 0; round < 4000; ++round) {
    const FrameType type = kAllFrameTypes[random() % std::size(kAllFrameTypes)];
    std::vector<std::byte> bytes = Bytes(MakeSampleFrame(random, type));
    FuzzFrame(bytes);
    for (int i = RandomInt(random, 0, 3); i >= 0; --i) {
      Break(random, bytes);
      FuzzFrame(bytes);
    }
  }
}

TEST(FrameFuzzTest, StoresInAnyOrder) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::byte> program(RandomInt<size_t>(random, 0, kFrameHeaderBytes - 1));
    for (std::byte& b : program) b = static_cast<std::byte>(random());
    FuzzFrame(program);
  }
}

}  // namespace
}  // namespace tributary
