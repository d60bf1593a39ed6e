// tributary-coordinator: flags, and the parts put together.
#include <chrono>
#include <cstdio>
#include <optional>

#include "CLI/CLI.hpp"
#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/status.h"
#include "base/version.h"
#include "coordinator/edge/coordinator_service.h"
#include "fmt/format.h"
#include "process/server_process.h"

namespace tributary {
namespace {

struct Flags {
  std::string kv_dtype = "bf16";
  std::string remote_k_dtype;  // "" = kv_dtype
  std::string remote_v_dtype;
  uint32_t max_running = 64;
  uint32_t max_queue = 256;
  std::optional<uint32_t> max_kept;
  uint32_t heartbeat_interval_ms = 500;
  uint32_t node_timeout_ms = 5000;
  uint32_t step_timeout_ms = 10000;
  uint32_t max_stall_s = 60;
  uint32_t window_tokens = 1024;
  uint32_t sink_tokens = 64;
  uint32_t block_tokens = 64;
};

void AddFlags(CLI::App& app, Flags& flags) {
  app.add_option("--max-running", flags.max_running, "requests placed at the same time")
      ->capture_default_str()
      ->check(CLI::Range(1u, 1u << 16));
  app.add_option("--max-queue", flags.max_queue, "requests that may wait for a place")->capture_default_str();
  app.add_option("--max-kept", flags.max_kept,
                 "of --max-running: sequences that may be kept between two turns; default: half");
  app.add_option("--heartbeat-interval-ms", flags.heartbeat_interval_ms, "asked of nodes and workers")
      ->capture_default_str()
      ->check(CLI::Range(10u, 60'000u));
  app.add_option("--node-timeout-ms", flags.node_timeout_ms,
                 "silence after which a node or worker is dead (after half of it: suspect): nothing is placed there; "
                 "what it holds stays, see --max-stall-s")
      ->capture_default_str()
      ->check(CLI::Range(100u, 3'600'000u));
  app.add_option("--step-timeout-ms", flags.step_timeout_ms, "a worker's deadline for one decode step")
      ->capture_default_str()
      ->check(CLI::Range(10u, limits::kMaxStepTimeoutMs));
  app.add_option("--max-stall-s", flags.max_stall_s,
                 "how long a request may stand still while a node or worker that holds its KV is silent; the most that "
                 "a request may ask for")
      ->capture_default_str()
      ->check(CLI::Range(1u, 3600u));
  app.add_option("--window-tokens", flags.window_tokens, "resident window of requests that state none")
      ->capture_default_str();
  app.add_option("--sink-tokens", flags.sink_tokens, "resident first tokens of such requests")->capture_default_str();
  app.add_option("--block-tokens", flags.block_tokens, "tokens that leave the window together")->capture_default_str();
  app.add_option("--kv-dtype", flags.kv_dtype, "f32, bf16 or f16, for requests that state none")->capture_default_str();
  for (auto [name, dtype] :
       {std::pair{"--remote-k-dtype", &flags.remote_k_dtype}, std::pair{"--remote-v-dtype", &flags.remote_v_dtype}}) {
    app.add_option(name, *dtype,
                   "in which CPU nodes store it, for requests that state none: f32, bf16, f16, "
                   "int8, int4 or fp8-e4m3; default: as --kv-dtype");
  }
}

absl::StatusOr<CoordinatorServiceOptions> OptionsOf(const Flags& flags, const std::string& listen) {
  if (flags.node_timeout_ms < 3 * flags.heartbeat_interval_ms) {
    return absl::InvalidArgumentError(
        fmt::format("--node-timeout-ms {} is less than three heartbeat intervals of {} ms; raise it",
                    flags.node_timeout_ms, flags.heartbeat_interval_ms));
  }
  if (flags.block_tokens == 0 || flags.window_tokens < flags.block_tokens) {
    return absl::InvalidArgumentError(
        fmt::format("--window-tokens {} must be at least --block-tokens {}, which must be at least 1",
                    flags.window_tokens, flags.block_tokens));
  }
  if (flags.max_kept.value_or(0) >= flags.max_running) {
    return absl::InvalidArgumentError(
        fmt::format("--max-kept {} must be less than --max-running {}: kept sequences would take all places",
                    *flags.max_kept, flags.max_running));
  }
  CoordinatorServiceOptions options;
  options.listen = listen;
  options.heartbeat_interval_ns = int64_t{flags.heartbeat_interval_ms} * kNsPerMs;
  options.shard_call_timeout_ns = 5 * kNsPerS;
  CoordinatorConfig& core = options.core;
  core.protocol_version = kProtocolVersion;
  core.admission = {flags.max_running, flags.max_queue, flags.max_kept.value_or(flags.max_running / 2)};
  core.defaults.window_tokens = flags.window_tokens;
  core.defaults.sink_tokens = flags.sink_tokens;
  core.defaults.has_sink_tokens = true;
  core.defaults.block_tokens = flags.block_tokens;
  TRIBUTARY_ASSIGN_OR_RETURN(core.defaults.kv_dtype, ParseDType(flags.kv_dtype));
  if (!flags.remote_k_dtype.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(core.defaults.remote_k_dtype, ParseKvDType(flags.remote_k_dtype));
  }
  if (!flags.remote_v_dtype.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(core.defaults.remote_v_dtype, ParseKvDType(flags.remote_v_dtype));
  }
  core.node_timeout_ns = int64_t{flags.node_timeout_ms} * kNsPerMs;
  core.step_timeout_ns = int64_t{flags.step_timeout_ms} * kNsPerMs;
  core.max_patience_gap_ns = 500 * kNsPerMs;
  core.max_stall_ns = int64_t{flags.max_stall_s} * kNsPerS;
  // The worker lets rows go by the step's deadline, or waits for a silent node for as long as their sequence allows. If
  // it does not even answer then, it gets time for a prefill piece more.
  core.stall_timeout_ns = 3 * core.step_timeout_ns + core.max_stall_ns + 30 * kNsPerS;
  core.stop_timeout_ns = core.step_timeout_ns;
  core.orphan_grace_ns = 10 * kNsPerS;
  core.close_retry_ns = kNsPerS;
  core.forget_after_ns = 300 * kNsPerS;
  return options;
}

absl::Status Run(const Flags& flags, ServerProcess& process) {
  TRIBUTARY_ASSIGN_OR_RETURN(CoordinatorServiceOptions options, OptionsOf(flags, process.flags().listen));
  options.security = process.security();
  process.SetBuildInfo("");
  TRIBUTARY_RETURN_IF_ERROR(process.StartMetrics());
  TRIBUTARY_ASSIGN_OR_RETURN(std::unique_ptr<CoordinatorService> service,
                             CoordinatorService::Start(options, process.registry()));
  TRIBUTARY_RETURN_IF_ERROR(process.PublishAddress(service->server(), service->address()));
  process.SetServing(service->server(), fmt::format("coordinator {} listens on {}", VersionText(), service->address()));

  process.WaitForStop();
  if (!service->Drain(int64_t{process.flags().drain_timeout_s} * kNsPerS)) {
    LOG_WARN("requests still ran after {} s of draining; they are ended now", process.flags().drain_timeout_s);
  }
  return process.refusal();
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) {
  tributary::Flags flags;
  return tributary::RunServerProgram(
      argc, argv,
      {"tributary-coordinator", "coordinator",
       "Tributary's coordinator: admits requests, places their KV, forms decode steps.",
       tributary::PeerRole::kCoordinator},
      [&](CLI::App& app) { tributary::AddFlags(app, flags); },
      [&](tributary::ServerProcess& process) { return tributary::Run(flags, process); });
}
