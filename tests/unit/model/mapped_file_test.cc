#include "model/mapped_file.h"

#include <signal.h>
#include <sys/stat.h>

#include <cstdlib>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/model_file.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

TEST(MappedFileTest, ReadsAndMapsWhatIsThere) {
  TempDir dir;
  WriteFile(dir / "file", "weights");
  const auto mapped = MappedFile::Open(dir / "file");
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  EXPECT_EQ(mapped->bytes().size(), 7u);
  EXPECT_EQ(*ReadModelFile(dir / "file", 7), "weights");
  EXPECT_THAT(std::string(ReadModelFile(dir / "file", 6).status().message()), HasSubstr("7 bytes, expected at most 6"));
  WriteFile(dir / "empty", "");
  EXPECT_TRUE(MappedFile::Open(dir / "empty")->bytes().empty());
  EXPECT_EQ(*ReadModelFile(dir / "empty", 6), "");
  EXPECT_TRUE(absl::IsNotFound(ReadModelFile(dir / "absent", 6).status()));
}

// Opening a pipe would wait for whoever writes into it.
TEST(MappedFileTest, PipesDevicesAndFoldersAreRefusedByName) {
  TempDir dir;
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(std::string(MappedFile::Open(dir / "pipe").status().message()), HasSubstr("pipe' is a named pipe"));
  EXPECT_THAT(std::string(ReadModelFile(dir / "pipe", 6).status().message()), HasSubstr("pipe' is a named pipe"));
  EXPECT_THAT(std::string(ReadModelFile("/dev/zero", 6).status().message()), HasSubstr("'/dev/zero' is a device"));
  EXPECT_EQ(MappedFile::Open(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

using MappedFileDeathTest = ::testing::Test;

TEST(MappedFileDeathTest, AFileThatBecomesShorterEndsTheProcessWithItsName) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  TempDir dir;
  WriteFile(dir / "weights", std::string(1 << 20, 'w'));
  EXPECT_EXIT(
      {
        const auto earlier = MappedFile::Open(dir / "weights");
        auto mapped = MappedFile::Open(dir / "weights");
        MappedFile moved = *std::move(mapped);
        std::filesystem::resize_file(dir / "weights", 4096);
        std::exit(static_cast<int>(moved.bytes()[(1 << 20) - 1]) == 'w' ? 3 : 4);
      },
      ::testing::ExitedWithCode(1), "weights: this file became shorter while its weights were in use");
}

TEST(MappedFileDeathTest, OtherFaultsAreNotTaken) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  TempDir dir;
  WriteFile(dir / "weights", "w");
  EXPECT_EXIT(
      {
        signal(SIGBUS, SIG_DFL);  // a sanitizer has a handler of its own
        const auto mapped = MappedFile::Open(dir / "weights");
        raise(SIGBUS);
        raise(SIGBUS);
      },
      ::testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace tributary
