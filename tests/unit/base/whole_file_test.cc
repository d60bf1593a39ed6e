#include "base/whole_file.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(WholeFileTest, ReplacesAFileAndLeavesNothingBesideIt) {
  const TempDir dir;
  const std::string path = dir / "f";
  ASSERT_TRUE(CheckWritable(path).ok());
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE(WriteWholeFile(path, "first").ok());
  ASSERT_TRUE(WriteWholeFile(path, "second").ok());
  EXPECT_EQ(Read(path), "second");
  ASSERT_TRUE(CheckWritable(path).ok());
  EXPECT_EQ(Read(path), "second");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(WholeFileTest, ALinkStaysAndItsTargetIsReplaced) {
  const TempDir dir;
  ASSERT_TRUE(WriteWholeFile(dir / "target", "old").ok());
  std::filesystem::create_symlink(dir / "target", dir / "link");
  ASSERT_TRUE(WriteWholeFile(dir / "link", "new").ok());
  EXPECT_TRUE(std::filesystem::is_symlink(dir / "link"));
  EXPECT_EQ(Read(dir / "target"), "new");
}

TEST(WholeFileTest, AFullDeviceIsAnErrorAndStaysADevice) {
  const absl::Status status = WriteWholeFile("/dev/full", "results of hours");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("'/dev/full': No space left on device"));
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
  EXPECT_TRUE(WriteWholeFile("/dev/null", "gone").ok());
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST(WholeFileTest, WhatCannotBeWrittenIsNamed) {
  const TempDir dir;
  for (const std::string& path : {std::string("/nonexistent/f"), dir.path().string()}) {
    EXPECT_THAT(std::string(CheckWritable(path).message()), HasSubstr(path));
    EXPECT_THAT(std::string(WriteWholeFile(path, "x").message()), HasSubstr(path));
  }
}

}  // namespace
}  // namespace tributary
