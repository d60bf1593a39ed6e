#include "gpu_worker/edge/gpu_worker_flags.h"

#include "CLI/CLI.hpp"
#include "base/limits.h"
#include "base/version.h"

namespace tributary {
namespace {

void AddDeviceFlags(CLI::App& app, GpuWorkerFlags* flags) {
  app.add_option("--device", flags->device, "host, cuda (GPU 0) or cuda:N")->capture_default_str();
  app.add_option("--compute-dtype", flags->compute_dtype,
                 "Of the matrices on a GPU: model (as stored), f32 or bf16; the host computes in f32")
      ->check(CLI::IsMember({"model", "f32", "bf16"}))
      ->capture_default_str();
  app.add_flag("--deterministic", flags->deterministic,
               "On a GPU: a sequence's results do not depend on its batch, bit for bit; large "
               "batches are slower");
  app.add_option("--threads", flags->threads, "Threads that compute; 0 = one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--resident-pool-bytes", flags->resident_pool_bytes,
                 "Memory for sinks and windows, reserved at start; takes suffixes such as 512MiB")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->capture_default_str();
  app.add_option("--max-batch", flags->max_batch, "Sequences per decode step")
      ->check(CLI::Range(1u, limits::kMaxBatch))
      ->capture_default_str();
  app.add_option("--max-prefill-tokens", flags->max_prefill_tokens, "Longest prompt")
      ->check(CLI::Range(1u, 1u << 30))
      ->capture_default_str();
  app.add_option("--max-token-stripes", flags->max_token_stripes, "Token stripes that a sequence may be cut into")
      ->check(CLI::Range(1u, limits::kMaxTokenStripes))
      ->capture_default_str();
}

}  // namespace

int ParseGpuWorkerFlags(int argc, char** argv, GpuWorkerFlags* flags) {
  CLI::App app("A GPU worker: owns the model and the resident KV; runs prefill and decode steps.");
  app.set_version_flag("--version", std::string(VersionText()));
  app.add_option("--model", flags->model, "Folder with config.json and *.safetensors");
  app.add_option("--load-format", flags->load_format,
                 "safetensors, or dummy: random weights for config.json alone, to measure with")
      ->check(CLI::IsMember({"safetensors", "dummy"}))
      ->capture_default_str();
  app.add_option("--dummy-seed", flags->dummy_seed, "Seed of dummy weights")->capture_default_str();
  AddDeviceFlags(app, flags);
  app.add_option("--coordinator", flags->coordinator, "HOST:PORT of the coordinator");
  app.add_option("--node-id", flags->node_id, "Name of this worker, unique in the cluster")
      ->capture_default_str()
      ->check([](const std::string& id) {
        return id.empty() || id.size() > limits::kMaxNodeIdBytes ? "must have 1 to 128 bytes" : "";
      });
  app.add_option("--spin-us", flags->spin_us,
                 "How long to poll before sleeping; beside a GPU, longer than a layer takes: 1000")
      ->check(CLI::Range(0u, 1'000'000u))
      ->capture_default_str();
  app.add_option("--transport-tls", flags->transport_tls,
                 "UCX transports, e.g. posix,sysv,self or tcp,self; all by default");
  app.add_option("--transport-net-devices", flags->transport_net_devices,
                 "Network devices of the data plane, e.g. eth0; UCX opens a TCP port on each: name one");
  app.add_option("--step-timeout-ms", flags->step_timeout_ms,
                 "Deadline of a step for which the coordinator states none")
      ->check(CLI::Range(10u, limits::kMaxStepTimeoutMs))
      ->capture_default_str();
  app.add_option("--node-silence-timeout-ms", flags->node_silence_timeout_ms,
                 "A CPU node that is silent on the data plane for this long has failed")
      ->check(CLI::Range(100u, 3'600'000u))
      ->capture_default_str();
  app.add_option("--listen", flags->listen, "HOST:PORT of the gRPC health service; port 0: a free one")
      ->capture_default_str();
  app.add_option("--metrics-listen", flags->metrics_listen, "HOST:PORT for /metrics; without it there is none");
  app.add_option("--port-file", flags->port_file,
                 "Writes the addresses in use to this file, as JSON, once the worker serves");
  app.add_option("--trace-file", flags->trace_file,
                 "Writes the stages of the last steps to this file, as a Chrome trace, at exit");
  app.add_option("--drain-timeout-s", flags->drain_timeout_s, "Time for running sequences after SIGTERM")
      ->capture_default_str();
  app.add_flag("--data-plane-mac", flags->data_plane_mac,
               "Tags frames with an AES-GMAC instead of a CRC, so that what somebody changes on the network is found, "
               "too; on every worker and node or none");
  app.add_option("--log-level", flags->log_level, "debug, info, warn, error or off")->capture_default_str();
  try {
    app.parse(argc, argv);
    // Not required(): CLI11 would complain about these before it names a flag that it does not know.
    if (flags->model.empty()) throw CLI::RequiredError("--model");
    if (flags->coordinator.empty()) throw CLI::RequiredError("--coordinator");
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 1;
  }
  return -1;
}

}  // namespace tributary
