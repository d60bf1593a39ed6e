#include "client/cli/secret_file.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

std::string Read(const std::string& path) {
  std::string line;
  std::getline(std::ifstream(path), line);
  return line;
}

TEST(NewSecretFileTest, ItsOwnerAloneMayReadItAndItGoesWithTheObject) {
  const TempDir dir;
  const std::string path = dir / "secret";
  {
    auto file = NewSecretFile::Create(path);
    ASSERT_TRUE(file.ok()) << file.status();
    struct stat info = {};
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    EXPECT_EQ(Read(path).size(), 64u);
    const NewSecretFile moved = *std::move(file);
    EXPECT_EQ(moved.path(), path);
    EXPECT_TRUE(std::filesystem::exists(path));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(NewSecretFileTest, WhatIsThereIsReplacedAndNotWrittenInto) {
  const TempDir dir;
  const std::string target = dir / "target";
  const std::string path = dir / "secret";
  WriteFile(target, "mine");
  std::filesystem::create_symlink(target, path);  // whoever put it there would read the secret
  const auto file = NewSecretFile::Create(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(Read(target), "mine");
  EXPECT_FALSE(std::filesystem::is_symlink(path));
  const std::string first = Read(path);
  const auto again = NewSecretFile::Create(path);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_NE(Read(path), first);
}

TEST(NewSecretFileTest, AFolderThatIsNotThere) {
  const auto file = NewSecretFile::Create("/nonexistent/secret");
  EXPECT_EQ(file.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(file.status().message()), ::testing::HasSubstr("/nonexistent/secret"));
}

}  // namespace
}  // namespace tributary
