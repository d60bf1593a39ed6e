// The command line of tributary-cpu-attention.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "process/server_flags.h"

namespace tributary {

struct CpuAttentionFlags {
  std::string node_id;
  std::string coordinator;  // "" = standalone
  std::string advertise;    // host that others reach this one by; "" = that of --listen
  uint64_t kv_pool_bytes = uint64_t{1} << 30;
  uint64_t extent_bytes = 512u << 10;
  int threads = 0;                         // 0 = one per allowed core
  std::string cpus;                        // list to pin the computing threads to, e.g. "0-7"; "" = not pinned
  int numa_node = -1;                      // KV memory and threads on this one; -1 = anywhere
  std::string huge_pages = "transparent";  // or "reserved" or "off"
  bool prefault = false;
  uint64_t scrub_bytes_per_second = 64u << 20;  // 0 = stored KV is not scrubbed
  std::string kernel;
  DataPlaneFlags data_plane;
};

// The cores to pin to, empty for none: those of `cpus`, else those of the NUMA node. NOT_FOUND or
// INVALID_ARGUMENT: what the flags name is not there.
absl::StatusOr<std::vector<int>> CpusToPin(const CpuAttentionFlags& flags);

// Adds the flags that a node has beside those of every server (process/server_flags.h).
void AddCpuAttentionFlags(CLI::App& app, CpuAttentionFlags* flags);

}  // namespace tributary
