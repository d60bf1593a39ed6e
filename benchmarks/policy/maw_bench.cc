// What a moving average of attention weights costs a decode step of the host device: steps of a sequence with one and
// of a sequence without, in turns, over the same number of resident tokens. Random weights.
//
//   maw_bench [--tokens 1024,4096] [--steps 200] [--threads N] [--kv-dtype bf16]
#include <algorithm>
#include <cstdio>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/clock.h"
#include "base/thread_pool.h"
#include "benchmarks/support/median.h"
#include "fmt/format.h"
#include "gpu_worker/device/host/host_device.h"
#include "tests/testutil/hgca_policy.h"
#include "tests/testutil/random_model.h"

namespace tributary {
namespace {

RandomModelOptions ProbeGeometry() {
  RandomModelOptions options;
  options.num_layers = 6;
  options.hidden_size = 256;
  options.intermediate_size = 768;
  options.vocab_size = 256;
  options.num_q_heads = 8;
  options.num_kv_heads = 2;
  options.head_dim = 64;
  return options;
}

struct StepSeconds {
  double attend = 0;  // all layers
  double step = 0;
};

StepSeconds RunStep(Device& device, uint32_t num_layers, ResidentId resident, uint32_t tokens) {
  const RealClock clock;
  const DecodeRow row{
      .token = 1, .pos = tokens - 1, .resident = resident, .append_slot = tokens - 1, .attend = {SlotRange{0, tokens}}};
  const uint32_t no_slots = 0;
  StepSeconds seconds;
  const int64_t begin_ns = clock.NowNs();
  device.BeginStep({&row, 1});
  for (uint32_t layer = 0; layer < num_layers; ++layer) {
    device.AwaitQuery(layer);
    const int64_t attend_ns = clock.NowNs();
    device.AttendResident(layer);
    seconds.attend += SecondsFromNs(clock.NowNs() - attend_ns);
    device.FinishLayer(layer, {&no_slots, 1});
  }
  device.EndStep();
  seconds.step = SecondsFromNs(clock.NowNs() - begin_ns);
  return seconds;
}

absl::Status Measure(Device& device, const RandomModelOptions& model, uint32_t tokens, int steps, DType kv_dtype) {
  const auto plain = device.ReserveResident({tokens, kv_dtype});
  const PolicyParams hgca = HgcaPolicyWith({0.5f, GroupAggregate::kMean});
  const auto with_maw = device.ReserveResident({tokens, kv_dtype, &hgca});
  if (!plain.ok()) return plain.status();
  if (!with_maw.ok()) return with_maw.status();
  std::vector<double> attend[2], step[2];
  for (int i = 0; i < 2 * steps; ++i) {
    const StepSeconds seconds = RunStep(device, model.num_layers, i % 2 == 0 ? *plain : *with_maw, tokens);
    attend[i % 2].push_back(seconds.attend);
    step[i % 2].push_back(seconds.step);
  }
  for (const auto& [name, seconds] : {std::pair{"attention", attend}, {"step", step}}) {
    const double without_us = MedianOf(seconds[0]) * 1e6, with_us = MedianOf(seconds[1]) * 1e6;
    fmt::print("{:>6} tokens, {} {:<10} {:8.1f} us, with a MAW {:8.1f} us ({:+.1f} %)\n", tokens, DTypeName(kv_dtype),
               name, without_us, with_us, 100 * (with_us - without_us) / without_us);
  }
  device.ReleaseResident(*plain);
  device.ReleaseResident(*with_maw);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  std::vector<uint32_t> lengths = {1024, 4096};
  int num_threads = static_cast<int>(AllowedCpus().size());
  int steps = 200;
  std::string kv_dtype_name = "bf16";
  CLI::App app("What a moving average of attention weights costs on the host device, probe geometry");
  app.add_option("--tokens", lengths, "resident tokens")->delimiter(',');
  app.add_option("--steps", steps, "of each kind")->check(CLI::Range(1, 1'000'000));
  app.add_option("--threads", num_threads, "threads, the caller included");
  app.add_option("--kv-dtype", kv_dtype_name, "f32, bf16 or f16");
  CLI11_PARSE(app, argc, argv);
  const absl::StatusOr<DType> kv_dtype = ParseDType(kv_dtype_name);
  const RandomModelOptions model = ProbeGeometry();
  const TempDir dir;
  WriteRandomModel(dir.path(), model);
  const auto weights = LoadModelWeights(dir.path());
  const DeviceLimits limits{.max_batch = 1, .resident_pool_bytes = uint64_t{1} << 30, .max_prefill_tokens = 1};
  const auto device = weights.ok() ? MakeHostDevice(*weights, limits, num_threads) : weights.status();
  absl::Status status = device.status();
  if (!kv_dtype.ok()) status = kv_dtype.status();
  fmt::print("{} threads\n", num_threads);
  for (const uint32_t tokens : lengths) {
    if (status.ok()) status = Measure(**device, model, tokens, steps, *kv_dtype);
  }
  if (status.ok()) return 0;
  fmt::print(stderr, "{}\n", status.ToString());
  return 1;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }
