#include "cpu_attention_service/edge/cpu_attention_flags.h"

#include <CLI/CLI.hpp>

#include "base/limits.h"
#include "base/numa.h"
#include "base/version.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr int kMaxNumaNode = 1023;  // of any Linux

}  // namespace

void AddCpuAttentionFlags(CLI::App& app, CpuAttentionFlags* flags) {
  AddNodeIdFlag(app, &flags->node_id, "Name of this node, unique in the cluster; by default cpu-HOST-RANDOM");
  app.add_option("--coordinator", flags->coordinator, "HOST:PORT to register with; without it the node stands alone");
  app.add_option("--advertise", flags->advertise, "Host by which others reach this node, if not the one in --listen");
  app.add_option("--kv-pool-bytes", flags->kv_pool_bytes,
                 "Memory for KV, reserved at start; takes suffixes such as 512MiB or 8GiB")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->capture_default_str();
  app.add_option("--extent-bytes", flags->extent_bytes,
                 "Granule of KV memory, a power of two; larger ones stream better")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->capture_default_str();
  app.add_option("--threads", flags->threads, "Threads that compute; 0 = one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--cpus", flags->cpus, "Cores to pin those threads to, e.g. 0-7,16; not pinned by default");
  app.add_option("--numa-node", flags->numa_node,
                 "Takes KV memory from this NUMA node and pins threads to its cores (or to --cpus); "
                 "start one process per node")
      ->check(CLI::Range(0, kMaxNumaNode));
  app.add_option("--huge-pages", flags->huge_pages,
                 "transparent (asked for), reserved (hugetlb; falls back to transparent) or off")
      ->check(CLI::IsMember({"transparent", "reserved", "off"}))
      ->capture_default_str();
  app.add_flag("--prefault", flags->prefault,
               "Touches all KV memory at start, so that the first tokens do not wait for pages");
  app.add_option("--scrub-bytes-per-second", flags->scrub_bytes_per_second,
                 "Stored KV compared with its CRCs while the node has nothing else to do, at most; 0 = never")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->capture_default_str();
  app.add_option("--kernel", flags->kernel, "amx, avx512_bf16, avx512, avx2 or scalar; the best one by default");
  AddDataPlaneFlags(app, &flags->data_plane);
  app.callback([flags] {
    if (flags->node_id.empty()) flags->node_id = DefaultNodeId("cpu");
  });
}

absl::StatusOr<std::vector<int>> CpusToPin(const CpuAttentionFlags& flags) {
  if (!flags.cpus.empty()) return ParseCpuList(flags.cpus);
  if (flags.numa_node < 0) return std::vector<int>{};
  std::vector<int> cpus = CpusOfNumaNode(flags.numa_node);
  if (!cpus.empty()) return cpus;
  return absl::NotFoundError(
      fmt::format("--numa-node {}: this host has {} NUMA nodes, and this process may use none of "
                  "the cores of that one",
                  flags.numa_node, NumNumaNodes()));
}

}  // namespace tributary
