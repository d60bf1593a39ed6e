#include "process/port_file.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

TEST(PortFileTest, HoldsBothAddressesAndLeavesNoPartBehind) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "tributary_port_file_test";
  std::filesystem::create_directory(folder);
  const std::string path = folder / "ports.json";
  ASSERT_TRUE(WritePortFile(path, "127.0.0.1:1", "127.0.0.1:2").ok());
  ASSERT_TRUE(WritePortFile(path, "127.0.0.1:3", "").ok());
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  EXPECT_EQ(line, R"({"listen": "127.0.0.1:3", "metrics": ""})");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
  std::filesystem::remove_all(folder);
}

TEST(PortFileTest, NamesThePathThatCannotBeWritten) {
  const absl::Status status = WritePortFile("/nonexistent/ports.json", "a", "b");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.ToString(), HasSubstr("/nonexistent/ports.json"));
}

}  // namespace
}  // namespace tributary
