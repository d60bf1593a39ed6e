#include "gpu_worker/edge/gpu_worker_flags.h"

#include "CLI/CLI.hpp"
#include "base/limits.h"

namespace tributary {
namespace {

void AddDeviceFlags(CLI::App& app, GpuWorkerFlags* flags) {
  app.add_option("--device", flags->device, "host, cuda (GPU 0) or cuda:N")->capture_default_str();
  app.add_option("--compute-dtype", flags->compute_dtype,
                 "Of the matrices on a GPU: model (as stored), f32 or bf16; the host computes in f32")
      ->check(CLI::IsMember({"model", "f32", "bf16"}))
      ->capture_default_str();
  app.add_option("--weight-dtype", flags->weight_dtype,
                 "Of the matrices on the host device: stored (as in the checkpoint), or int8, rounded as they are "
                 "loaded: half the memory and less time a token, for a small error (docs/numerics.md)")
      ->check(CLI::IsMember({"stored", "int8"}))
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

void AddGpuWorkerFlags(CLI::App& app, GpuWorkerFlags* flags) {
  app.add_option("--model", flags->model, "Folder with config.json and *.safetensors");
  app.add_option("--load-format", flags->load_format,
                 "safetensors, or dummy: random weights for config.json alone, to measure with")
      ->check(CLI::IsMember({"safetensors", "dummy"}))
      ->capture_default_str();
  app.add_option("--dummy-seed", flags->dummy_seed, "Seed of dummy weights")->capture_default_str();
  AddDeviceFlags(app, flags);
  app.add_option("--coordinator", flags->coordinator, "HOST:PORT of the coordinator");
  AddNodeIdFlag(app, &flags->node_id, "Name of this worker, unique in the cluster; by default gpu-HOST-RANDOM");
  AddDataPlaneFlags(app, &flags->data_plane);
  app.add_option("--step-timeout-ms", flags->step_timeout_ms,
                 "Deadline of a step for which the coordinator states none")
      ->check(CLI::Range(10u, limits::kMaxStepTimeoutMs))
      ->capture_default_str();
  app.add_option("--node-silence-timeout-ms", flags->node_silence_timeout_ms,
                 "A CPU node that owes an answer for this long is silent, however slow it has been before: what waits "
                 "for it is parked")
      ->check(CLI::Range(100u, 3'600'000u))
      ->capture_default_str();
  app.add_option("--trace-file", flags->trace_file,
                 "Writes the stages of the last steps to this file, as a Chrome trace, at exit");
  // Not required(): CLI11 would complain about these before it names a flag that it does not know.
  app.callback([flags] {
    if (flags->model.empty()) throw CLI::RequiredError("--model");
    if (flags->coordinator.empty()) throw CLI::RequiredError("--coordinator");
    if (flags->node_id.empty()) flags->node_id = DefaultNodeId("gpu");
  });
}

}  // namespace tributary
