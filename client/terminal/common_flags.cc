#include "client/terminal/common_flags.h"

#include <charconv>
#include <string_view>
#include <utility>

#include "CLI/CLI.hpp"
#include "base/limits.h"
#include "base/outside_text.h"
#include "fmt/format.h"
#include "process/flags/security_flags.h"

namespace tributary {
namespace {

constexpr uint32_t kMaxThreads = 1024;  // as --threads of the servers
constexpr uint32_t kMaxOrdinal = 1024;

// "" for host, cuda and cuda:N.
std::string CheckDevice(const std::string& device) {
  if (device == "host" || device == "cuda") return "";
  uint32_t ordinal = 0;
  constexpr std::string_view kPrefix = "cuda:";
  const char* const end = device.data() + device.size();
  if (device.starts_with(kPrefix)) {
    const auto [stop, error] = std::from_chars(device.data() + kPrefix.size(), end, ordinal);
    if (error == std::errc() && stop == end && ordinal < kMaxOrdinal) return "";
  }
  return fmt::format("'{}' is no device; use host, cuda or cuda:N", Printable(device, kMaxShownBytes));
}

}  // namespace

void AddLayoutFlags(CLI::App& app, RequestOptions& request) {
  app.add_option("--sink-tokens", request.sink_tokens,
                 "First tokens that stay on the worker (default: the coordinator's, 64)")
      ->group(kPlacementGroup);
  app.add_option("--block-tokens", request.block_tokens,
                 "Tokens that leave the window together (default: the coordinator's, 64)")
      ->check(CLI::Range(1u, limits::kMaxBlockTokens))
      ->group(kPlacementGroup);
  app.add_option("--kv-dtype", request.kv_dtype, "Storage type of KV (default: the coordinator's, bf16)")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->group(kPlacementGroup);
  for (auto [name, dtype] : {std::pair{"--remote-k-dtype", &request.remote_k_dtype},
                             std::pair{"--remote-v-dtype", &request.remote_v_dtype}}) {
    app.add_option(name, *dtype, "Storage type on the CPU nodes (default: the coordinator's, as --kv-dtype)")
        ->check(CLI::IsMember({"bf16", "f16", "f32", "int8", "int4", "fp8-e4m3"}))
        ->group(kPlacementGroup);
  }
  app.add_option("--shard-cut", request.shard_cut, "How remote KV is cut over the nodes: auto, tokens, heads or both")
      ->check(CLI::IsMember({"auto", "tokens", "heads", "both"}))
      ->group(kPlacementGroup);
  app.add_option("--max-nodes", request.max_nodes, "Use at most this many CPU nodes (default: all)")
      ->group(kPlacementGroup);
}

void AddClusterFlags(CLI::App& app, ClusterOptions& cluster, bool model_required) {
  app.add_option("--model", cluster.model_dir, "Model folder (config.json, *.safetensors)")
      ->required(model_required)
      ->group(kClusterGroup);
  app.add_option("--load-format", cluster.load_format,
                 "safetensors (default), or dummy: random weights for config.json alone")
      ->check(CLI::IsMember({"safetensors", "dummy"}))
      ->group(kClusterGroup);
  app.add_option("--cpu-nodes", cluster.cpu_nodes, "CPU attention services to start (default 2)")
      ->check(CLI::Range(0u, 64u))
      ->group(kClusterGroup);
  app.add_option("--kv-pool-bytes", cluster.kv_pool_bytes, "KV memory of each CPU node, e.g. 512MB (default 1GB)")
      ->transform(CLI::AsSizeValue(false))
      ->group(kClusterGroup);
  app.add_option("--device", cluster.devices,
                 "Device of the GPU worker: host (default), cuda or cuda:N; several, separated by "
                 "commas, start a worker for each")
      ->delimiter(',')
      ->check(CheckDevice)
      ->group(kClusterGroup);
  app.add_option("--compute-dtype", cluster.compute_dtype, "Of the matrices on a GPU: model (default), f32 or bf16")
      ->check(CLI::IsMember({"model", "f32", "bf16"}))
      ->group(kClusterGroup);
  app.add_option("--weight-dtype", cluster.weight_dtype,
                 "Of the matrices on the host device: stored (default), or int8, smaller and faster for a small error")
      ->check(CLI::IsMember({"stored", "int8"}))
      ->group(kClusterGroup);
  app.add_option("--resident-pool-bytes", cluster.resident_pool_bytes,
                 "KV memory of the GPU worker, e.g. 512MB (default 256MB)")
      ->transform(CLI::AsSizeValue(false))
      ->group(kClusterGroup);
  app.add_option("--worker-threads", cluster.worker_threads, "Compute threads of the GPU worker's host device")
      ->check(CLI::Range(0u, kMaxThreads))
      ->group(kClusterGroup);
  app.add_option("--node-threads", cluster.node_threads, "Compute threads of each CPU node (default: cores / nodes)")
      ->check(CLI::Range(0u, kMaxThreads))
      ->group(kClusterGroup);
  app.add_option("--max-batch", cluster.max_batch, "Sequences in one decode step (default 8)")
      ->check(CLI::Range(1u, limits::kMaxBatch))
      ->group(kClusterGroup);
  app.add_option("--max-prefill-tokens", cluster.max_prefill_tokens,
                 "Longest prompt that the GPU worker takes (default 65536)")
      ->check(CLI::Range(1u, 1u << 30))
      ->group(kClusterGroup);
  app.add_option("--metrics-base-port", cluster.metrics_base_port,
                 "First of the ports of /metrics: coordinator, GPU workers, CPU nodes, in a row (default: free ones); "
                 "deploy/prometheus/prometheus.yml is for 9100")
      ->check(CLI::Range(1u, 65'535u - 128))
      ->group(kClusterGroup);
  app.add_option("--transport-tls", cluster.transport_tls, "UCX_TLS of the data plane, e.g. tcp (default: the best)")
      ->group(kClusterGroup);
  app.add_option("--trace-file", cluster.trace_file, "Chrome trace of the worker's steps, written when it stops")
      ->group(kClusterGroup);
  app.add_option("--log-dir", cluster.log_dir, "Folder for the processes' logs (default: a temporary one)")
      ->group(kClusterGroup);
  app.add_option("--log-level", cluster.log_level, "debug, info, warn or error")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
      ->group(kClusterGroup);
}

void AddCoordinatorFlags(CLI::App& app, std::string& coordinator, TlsFiles& tls, bool required) {
  app.add_option("--coordinator", coordinator, "host:port of a running coordinator")
      ->required(required)
      ->check([](const std::string& value) {
        return value.find(':') == std::string::npos ? "'" + value + "' is not host:port" : std::string();
      });
  AddTlsFlags(app, &tls, kTlsGroup);
}

absl::Status CheckModelOrCoordinator(const ClusterOptions& cluster, const std::string& coordinator) {
  if (coordinator.empty() != cluster.model_dir.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      coordinator.empty() ? "give either --model DIR (a cluster is started for it) or --coordinator HOST:PORT (a "
                            "running one)"
                          : "give either --model DIR or --coordinator HOST:PORT, not both; one may come from --config, "
                            "TRIBUTARY_MODEL or TRIBUTARY_COORDINATOR");
}

}  // namespace tributary
