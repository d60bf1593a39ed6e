// docs/wire_format.md shows one frame in hex: this test makes the same frame and compares.
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "wire/frame.h"
#include "wire/frame_builder.h"
#include "wire/frame_seal.h"

namespace tributary {
namespace {

std::string HexDump(std::span<const std::byte> bytes) {
  std::string text;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i % 16 == 0) text += fmt::format("{:04x} ", i);
    text += fmt::format(" {:02x}", static_cast<int>(bytes[i]));
    if (i % 16 == 15 || i + 1 == bytes.size()) text += "\n";
  }
  return text;
}

std::vector<std::byte> ExampleFrame() {
  const std::vector<QueryEntry> entries = {
      {.shard_id = 7, .sequence_epoch = 3, .visible_begin = 64, .visible_end = 128, .num_q_heads = 2, .n_q = 1}};
  const size_t payload_bytes = QueryPayloadBytes(entries, /*head_dim=*/2);
  std::vector<std::byte> frame(kFrameHeaderBytes + payload_bytes);
  const std::span<std::byte> payload = std::span(frame).subspan(kFrameHeaderBytes);
  QueryPayloadWriter writer(payload, 1, /*head_dim=*/2, /*softmax_scale=*/0.5f);
  float next = 1;
  for (float& x : writer.Add(entries[0]).q) x = next++;
  FrameHeader header{.type = static_cast<uint8_t>(FrameType::kQuery),
                     .session_id = 0x51,
                     .frame_seq = 9,
                     .step_id = 40,
                     .layer = 5,
                     .slot = 1,
                     .timeout_us = 2'000'000};
  SealFrame({0x0706050403020100u, 0x0f0e0d0c0b0a0908u}, header, payload);
  std::memcpy(frame.data(), &header, sizeof(header));
  return frame;
}

TEST(WireFormatTest, TheDocumentShowsWhatTheCodeWrites) {
  std::ifstream file("docs/wire_format.md");
  ASSERT_TRUE(file.is_open()) << "run from the source folder (ctest does)";
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_THAT(text.str(), testing::HasSubstr(HexDump(ExampleFrame())));
}

}  // namespace
}  // namespace tributary
