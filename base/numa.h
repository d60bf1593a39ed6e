// NUMA nodes: which cores belong to one, and memory bound to one. Asks the kernel directly (sysfs, mbind), so that no
// library is needed. On a host with one node everything works and changes nothing. Thread-safe.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tributary {

// Returns at least 1.
int NumNumaNodes();
// Cores of the node that this process may run on, ascending. Empty: no such node, or none of its cores. A host whose
// kernel names no nodes has one, node 0, with all cores.
std::vector<int> CpusOfNumaNode(int node);
// The pages of `memory` that are not there yet will come from the node. False where the kernel refuses (containers
// without CAP_SYS_NICE may): then they come from the node of the thread that touches them first.
bool BindToNumaNode(std::span<std::byte> memory, int node);

// "0-3,8" -> 0 1 2 3 8, sorted, each once. INVALID_ARGUMENT for anything else or cores beyond 1023.
absl::StatusOr<std::vector<int>> ParseCpuList(std::string_view text);

}  // namespace tributary
