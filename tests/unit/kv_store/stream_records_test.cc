#include "kv_store/stream_records.h"

#include <cstring>

#include "base/aligned_buffer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

constexpr size_t kExtentBytes = 4096;
constexpr StreamRecordsOptions kOptions{.num_streams = 3, .records_per_stream = 7, .record_bytes = 1344};

TEST(StreamRecords, EachRecordHasItsOwnBytes) {
  AlignedBuffer<std::byte> memory(20 * kExtentBytes);
  BlockPool pool(memory.span(), kExtentBytes);
  auto records = StreamRecords::Open(kOptions, &pool);
  ASSERT_TRUE(records.ok()) << records.status();
  EXPECT_EQ(records->reserved_bytes(), 7 * kExtentBytes) << "21 records, three to an extent";
  EXPECT_EQ(records->reserved_bytes(), *StreamRecords::ReservedBytes(kOptions, kExtentBytes));
  for (uint64_t stream = 0; stream < 3; ++stream) {
    for (uint64_t i = 0; i < 7; ++i) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(records->At(stream, i)) % 64, 0u);
      std::memset(records->At(stream, i), static_cast<int>(stream * 7 + i), kOptions.record_bytes);
    }
  }
  for (uint64_t stream = 0; stream < 3; ++stream) {
    for (uint64_t i = 0; i < 7;) {
      const uint64_t run = records->RunLength(stream, i, 7);
      ASSERT_GT(run, 0u);
      const std::byte* begin = records->At(stream, i);
      for (uint64_t end = i + run; i < end; ++i, begin += kOptions.record_bytes) {
        EXPECT_EQ(begin[0], std::byte(stream * 7 + i));
        EXPECT_EQ(begin[kOptions.record_bytes - 1], std::byte(stream * 7 + i));
      }
      ASSERT_LE(i, 7u);
    }
  }
}

TEST(StreamRecords, GivesItsExtentsBackOnce) {
  AlignedBuffer<std::byte> memory(20 * kExtentBytes);
  BlockPool pool(memory.span(), kExtentBytes);
  {
    auto records = StreamRecords::Open(kOptions, &pool);
    ASSERT_TRUE(records.ok());
    const StreamRecords moved = *std::move(records);
    EXPECT_EQ(pool.num_free(), 13u);
  }
  EXPECT_EQ(pool.num_free(), 20u);
}

TEST(StreamRecords, WhatCannotBeIsRefused) {
  AlignedBuffer<std::byte> memory(2 * kExtentBytes);
  BlockPool pool(memory.span(), kExtentBytes);
  EXPECT_THAT(std::string(StreamRecords::Open({1, 1, 8192}, &pool).status().message()),
              HasSubstr("records of 8192 bytes are larger than an extent of 4096"));
  EXPECT_EQ(StreamRecords::Open({1, 0, 64}, &pool).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(StreamRecords::Open({1, 3, 4096}, &pool).status().message()),
              HasSubstr("12288 bytes needed for records beside a shard's K and V, 8192 free"));
}

}  // namespace
}  // namespace tributary
