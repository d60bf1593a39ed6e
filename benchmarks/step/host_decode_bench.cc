// Decode on the host device: tokens per second of a model folder with all KV resident, the bytes of weights that a step
// reads, the process's memory, and what the cores read from memory in the same run. One JSON line for each batch and
// context, so that two binaries or two weight dtypes can be run in turns and their medians divided.
//
//   host_decode_bench --model models/smollm2 [--weight-dtype int8] [--batch 1,4] [--context 64,7000] [--steps 50]
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/clock.h"
#include "base/thread_pool.h"
#include "benchmarks/support/median.h"
#include "benchmarks/support/read_bandwidth.h"
#include "fmt/format.h"
#include "gpu_worker/device/host/host_device.h"
#include "gpu_worker/device/host/host_weights.h"
#include "tests/testutil/device_driver.h"

namespace tributary {
namespace {

struct Flags {
  std::string model;
  std::string weight_dtype = "stored";
  std::string kv_dtype = "bf16";
  std::vector<uint32_t> batches = {1, 4};
  std::vector<uint32_t> contexts = {64};
  uint32_t prefill_tokens = 0;
  int steps = 50;
  int threads = static_cast<int>(AllowedCpus().size());
  bool ceiling = true;
};

// A line of /proc/self/status in MB, such as VmRSS or RssAnon.
double StatusMb(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name + ":")) return std::stod(line.substr(name.size() + 1)) / 1000;
  }
  return 0;
}

struct StepSeconds {
  double median = 0;
  double best = 0;
};

StepSeconds MeasureSteps(Device& device, uint32_t num_layers, std::vector<DecodeRow> rows, int steps) {
  const RealClock clock;
  std::vector<double> seconds;
  for (int i = -2; i < steps; ++i) {  // two to warm up
    const int64_t start_ns = clock.NowNs();
    DecodeResident(device, num_layers, rows);
    if (i >= 0) seconds.push_back(SecondsFromNs(clock.NowNs() - start_ns));
  }
  return {MedianOf(seconds), *std::min_element(seconds.begin(), seconds.end())};
}

absl::Status MeasureDecode(Device& device, const ModelWeights& weights, const Flags& flags, DType kv_dtype,
                           uint64_t weight_bytes) {
  for (const uint32_t context : flags.contexts) {
    std::vector<DecodeRow> rows;
    for (uint32_t i = 0; i < flags.batches.back(); ++i) {
      const auto resident = device.ReserveResident({context, kv_dtype});
      if (!resident.ok()) return resident.status();
      rows.push_back(ContiguousRow(*resident, 1 + i, context - 1));
    }
    for (const uint32_t batch : flags.batches) {
      const StepSeconds step =
          MeasureSteps(device, weights.config.num_layers, {rows.begin(), rows.begin() + batch}, flags.steps);
      fmt::print(
          "{{\"weights\": \"{}\", \"kv\": \"{}\", \"threads\": {}, \"batch\": {}, \"context\": {}, "
          "\"step_ms\": {:.3f}, \"best_ms\": {:.3f}, "
          "\"tokens_per_s\": {:.1f}, \"weight_mb\": {:.1f}, \"weight_gb_per_s\": {:.1f}, \"rss_mb\": {:.0f}, "
          "\"rss_anon_mb\": {:.0f}}}\n",
          flags.weight_dtype, flags.kv_dtype, flags.threads, batch, context, step.median * 1e3, step.best * 1e3,
          batch / step.median, static_cast<double>(weight_bytes) * 1e-6,
          static_cast<double>(weight_bytes) * 1e-9 / step.median, StatusMb("VmRSS"), StatusMb("RssAnon"));
      std::fflush(stdout);
    }
    for (const DecodeRow& row : rows) device.ReleaseResident(row.resident);
  }
  return absl::OkStatus();
}

absl::Status MeasurePrefill(Device& device, const ModelWeights& weights, const Flags& flags, DType kv_dtype) {
  const RealClock clock;
  const std::vector<uint32_t> tokens(flags.prefill_tokens, 1);
  std::vector<double> seconds;
  for (int i = 0; i < 3; ++i) {
    const int64_t start_ns = clock.NowNs();
    const Prefilled filled = PrefillResident(device, weights.config.num_layers, tokens, kv_dtype, flags.prefill_tokens);
    seconds.push_back(SecondsFromNs(clock.NowNs() - start_ns));
    device.ReleaseResident(filled.resident);
  }
  fmt::print("{{\"weights\": \"{}\", \"prefill_tokens\": {}, \"tokens_per_s\": {:.1f}}}\n", flags.weight_dtype,
             flags.prefill_tokens, flags.prefill_tokens / MedianOf(seconds));
  return absl::OkStatus();
}

absl::Status Run(const Flags& flags) {
  const absl::StatusOr<DType> kv_dtype = ParseDType(flags.kv_dtype);
  const absl::StatusOr<WeightDType> weight_dtype = ParseWeightDType(flags.weight_dtype);
  const auto weights = LoadModelWeights(flags.model);
  for (const absl::Status& status : {kv_dtype.status(), weight_dtype.status(), weights.status()}) {
    if (!status.ok()) return status;
  }
  uint64_t pool_bytes = uint64_t{64} << 20;
  for (const uint32_t context : flags.contexts) {
    pool_bytes += uint64_t{flags.batches.back()} * (context + 1) * (*weights)->config.num_layers * 2 *
                  (*weights)->config.attention.num_kv_heads * (*weights)->config.attention.head_dim *
                  DTypeBytes(*kv_dtype);
  }
  const DeviceLimits limits{.max_batch = flags.batches.back(),
                            .resident_pool_bytes = pool_bytes,
                            .max_prefill_tokens = std::max(flags.prefill_tokens, 1u)};
  const RealClock clock;
  const int64_t start_ns = clock.NowNs();
  const auto device = MakeHostDevice(*weights, limits, flags.threads, *weight_dtype);
  if (!device.ok()) return device.status();
  fmt::print("{{\"made_in_s\": {:.2f}, \"pool_mb\": {:.0f}", SecondsFromNs(clock.NowNs() - start_ns),
             static_cast<double>(pool_bytes) * 1e-6);
  if (flags.ceiling) fmt::print(", \"read_ceiling_gb_per_s\": {:.1f}", MeasureReadBandwidthGbPerS(flags.threads));
  fmt::print("}}\n");
  if (flags.prefill_tokens != 0) return MeasurePrefill(**device, **weights, flags, *kv_dtype);
  // Of an embedding that is not the head, too, a step reads a row alone.
  const ModelWeights& source = **weights;
  const bool has_table = source.lm_head != source.embedding || *weight_dtype != WeightDType::kStored;
  const uint64_t table_bytes = has_table ? source.embedding->bytes.size() : 0;
  return MeasureDecode(**device, source, flags, *kv_dtype, HostWeights::Bytes(source, *weight_dtype) - table_bytes);
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Decode speed of a model on the host device");
  app.add_option("--model", flags.model, "folder with config.json and *.safetensors")->required();
  app.add_option("--weight-dtype", flags.weight_dtype, "stored or int8")->capture_default_str();
  app.add_option("--kv-dtype", flags.kv_dtype, "f32, bf16 or f16")->capture_default_str();
  app.add_option("--batch", flags.batches, "sequences in a step, ascending")
      ->delimiter(',')
      ->check(CLI::Range(1u, 64u));
  app.add_option("--context", flags.contexts, "resident tokens of each")
      ->delimiter(',')
      ->check(CLI::Range(1u, 1u << 20));
  app.add_option("--prefill", flags.prefill_tokens, "measure a prompt of this length instead");
  app.add_option("--steps", flags.steps, "of each")->check(CLI::Range(1, 1'000'000));
  app.add_option("--threads", flags.threads, "threads, the caller included");
  app.add_flag("--ceiling,!--no-ceiling", flags.ceiling, "measure the read bandwidth, too");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Run(flags);
  if (status.ok()) return 0;
  fmt::print(stderr, "{}\n", status.ToString());
  return 1;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }
