#include "base/numa.h"

#include <string>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using testing::ElementsAre;

TEST(NumaTest, CpuLists) {
  EXPECT_THAT(*ParseCpuList("0"), ElementsAre(0));
  EXPECT_THAT(*ParseCpuList("8,0-3,2"), ElementsAre(0, 1, 2, 3, 8));
  for (const char* bad : {"", "a", "1,", ",1", "3-1", "-1", "1-", "1024", "1 2", "0-99999999999"}) {
    const auto cpus = ParseCpuList(bad);
    EXPECT_EQ(cpus.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(cpus.status().message()), testing::HasSubstr(fmt::format("'{}'", bad)));
  }
}

TEST(NumaTest, EveryCoreIsOfOneNode) {
  std::vector<int> cpus;
  for (int node = 0; node < NumNumaNodes(); ++node) {
    const std::vector<int> of_node = CpusOfNumaNode(node);
    cpus.insert(cpus.end(), of_node.begin(), of_node.end());
  }
  EXPECT_THAT(cpus, testing::UnorderedElementsAreArray(AllowedCpus()));
  EXPECT_TRUE(CpusOfNumaNode(-1).empty());
  EXPECT_TRUE(CpusOfNumaNode(NumNumaNodes()).empty());
}

TEST(NumaTest, BoundMemoryIsUsable) {
  AlignedBuffer<std::byte> memory(1 << 20);
  BindToNumaNode(memory.span(), 0);  // may be refused
  memory[5] = std::byte{1};
  EXPECT_FALSE(BindToNumaNode(memory.span(), -1));
  EXPECT_FALSE(BindToNumaNode(memory.span(), NumNumaNodes() + 500));
}

}  // namespace
}  // namespace tributary
