// libFuzzer target. Every so often it starts anew from a valid frame of a random type, so it needs
// no stored corpus.
#include <algorithm>
#include <cstring>
#include <random>

#include "tests/fuzz/frame_fuzz_entry.h"
#include "tests/testutil/sample_frames.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  std::mt19937_64 random(seed);
  if (random() % 16 == 0) {
    const tributary::SampleFrame frame =
        tributary::MakeSampleFrame(random, tributary::kAllFrameTypes[random() % std::size(tributary::kAllFrameTypes)]);
    const size_t frame_bytes = sizeof(frame.header) + frame.payload.size();
    if (frame_bytes <= max_size) {
      std::memcpy(data, &frame.header, sizeof(frame.header));
      std::memcpy(data + sizeof(frame.header), frame.payload.data(), frame.payload.size());
      size = frame_bytes;
    }
  }
  return LLVMFuzzerMutate(data, size, max_size);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tributary::FuzzFrame({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
