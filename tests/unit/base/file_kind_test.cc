#include "base/file_kind.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

TEST(FileKindTest, WhatIsNoFileIsRefusedByName) {
  TempDir dir;
  const std::string pipe = dir / "pipe";
  const std::string socket_path = dir / "socket";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(socket_path.size(), sizeof(address.sun_path));
  socket_path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);

  EXPECT_EQ(CheckRegularFile(pipe).message(), fmt::format("'{}' is a named pipe, not a regular file", pipe));
  EXPECT_EQ(CheckRegularFile(socket_path).message(), fmt::format("'{}' is a socket, not a regular file", socket_path));
  EXPECT_EQ(CheckRegularFile("/dev/zero").message(), "'/dev/zero' is a device, not a regular file");
  EXPECT_EQ(CheckRegularFile(dir.path()).message(),
            fmt::format("'{}' is a folder, not a regular file", dir.path().string()));
  EXPECT_TRUE(CheckFileOrPipe(pipe).ok());
  EXPECT_TRUE(CheckFileOrPipe("/dev/null").ok());
  EXPECT_EQ(CheckFileOrPipe(socket_path).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(CheckFileOrPipe(dir.path()).message()), HasSubstr("is a folder, not a file"));
  close(fd);
}

TEST(FileKindTest, FilesLinksAndWhatIsNotThereAreFine) {
  TempDir dir;
  WriteFile(dir / "file", "x");
  std::filesystem::create_symlink(dir / "file", dir / "link");
  for (const char* name : {"file", "link", "absent"}) {
    EXPECT_TRUE(CheckRegularFile(dir / name).ok()) << name;
    EXPECT_TRUE(CheckFileOrPipe(dir / name).ok()) << name;
  }
}

}  // namespace
}  // namespace tributary
