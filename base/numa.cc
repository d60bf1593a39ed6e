#include "base/numa.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <iterator>

#include "base/thread_pool.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr int kMaxCpus = 1024;
constexpr int kMaxNodes = 1024;
constexpr size_t kPageBytes = 4096;

absl::Status BadCpuList(std::string_view text) {
  return absl::InvalidArgumentError(
      fmt::format("'{}' is no list of cores; write something like 0-7,16 with numbers below {}", text, kMaxCpus));
}

// A number at the start of `text`, which is cut off; -1 if there is none below kMaxCpus.
int TakeNumber(std::string_view& text) {
  int value = -1;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || value < 0 || value >= kMaxCpus) return -1;
  text.remove_prefix(static_cast<size_t>(result.ptr - text.data()));
  return value;
}

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

}  // namespace

absl::StatusOr<std::vector<int>> ParseCpuList(std::string_view text) {
  std::vector<int> cpus;
  for (std::string_view rest = text; !rest.empty() || cpus.empty();) {
    const int first = TakeNumber(rest);
    int last = first;
    if (first >= 0 && rest.starts_with('-')) {
      rest.remove_prefix(1);
      last = TakeNumber(rest);
    }
    if (first < 0 || last < first) return BadCpuList(text);
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (rest.empty()) break;
    if (!rest.starts_with(',') || rest.size() == 1) return BadCpuList(text);
    rest.remove_prefix(1);
  }
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

int NumNumaNodes() {
  int count = 0;
  while (count < kMaxNodes && access(fmt::format("/sys/devices/system/node/node{}", count).c_str(), F_OK) == 0) {
    ++count;
  }
  return std::max(count, 1);
}

std::vector<int> CpusOfNumaNode(int node) {
  const std::vector<int> allowed = AllowedCpus();
  if (node < 0 || node >= kMaxNodes) return {};
  const auto of_node = ParseCpuList(FirstLine(fmt::format("/sys/devices/system/node/node{}/cpulist", node)));
  if (!of_node.ok()) return node == 0 && NumNumaNodes() == 1 ? allowed : std::vector<int>{};
  std::vector<int> cpus;
  std::set_intersection(allowed.begin(), allowed.end(), of_node->begin(), of_node->end(), std::back_inserter(cpus));
  return cpus;
}

bool BindToNumaNode(std::span<std::byte> memory, int node) {
  if (node < 0 || node >= kMaxNodes || memory.empty()) return false;
  constexpr size_t kBits = 8 * sizeof(unsigned long);
  std::array<unsigned long, kMaxNodes / kBits> mask{};
  mask[static_cast<size_t>(node) / kBits] = 1ul << (static_cast<size_t>(node) % kBits);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory.data()) / kPageBytes * kPageBytes;
  const uintptr_t end = reinterpret_cast<uintptr_t>(memory.data() + memory.size());
  // The kernel wants the number of bits plus one.
  return syscall(SYS_mbind, begin, end - begin, MPOL_BIND, mask.data(), kMaxNodes + 1, 0) == 0;
}

}  // namespace tributary
