// Prefill on the host device: time per layer, GFLOP/s, and the share of what a plain sgemm reaches on the same cores in
// the same run. Random weights: the arithmetic does not depend on their values.
//
//   prefill_bench [--tokens 4096,16384] [--threads N] [--kv-dtype f32]
#include <algorithm>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/clock.h"
#include "base/thread_pool.h"
#include "fmt/format.h"
#include "gpu_worker/device/host/blas_library.h"
#include "gpu_worker/device/host/host_device.h"
#include "gpu_worker/device/host/matmul.h"
#include "gpu_worker/device/host/row_kernels.h"
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

// Multiply-adds count twice. Causal attention: half of the square, for q.k and for p.v.
double LayerGflop(const RandomModelOptions& model, double tokens) {
  const double q_dim = model.num_q_heads * model.head_dim;
  const double kv_dim = model.num_kv_heads * model.head_dim;
  const double linear = model.hidden_size * (2 * q_dim + 2 * kv_dim + 3.0 * model.intermediate_size);
  return (tokens * 2 * linear + tokens * tokens * 2 * q_dim) * 1e-9;
}

// GFLOP/s of one large product per thread at once: the best that this library does on these cores.
double SgemmCeiling(int num_threads) {
  constexpr size_t kSize = 1024;
  constexpr int kRepeats = 10;
  ThreadPool pool(num_threads);
  std::vector<std::vector<float>> x(static_cast<size_t>(num_threads), std::vector<float>(kSize * kSize, 0.5f));
  std::vector<std::vector<float>> y = x;
  const std::vector<float> w(kSize * kSize, 0.25f);
  const RealClock clock;
  double best_s = 1e9;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const int64_t start_ns = clock.NowNs();
    pool.Run([&](int thread_idx) {
      const auto i = static_cast<size_t>(thread_idx);
      MatMul({w.data(), kSize, kSize}, x[i].data(), kSize, kSize, y[i].data(), kSize, false);
    });
    best_s = std::min(best_s, SecondsFromNs(clock.NowNs() - start_ns));
  }
  return 2.0 * kSize * kSize * kSize * num_threads * 1e-9 / best_s;
}

void RunPrompt(Device& device, const RandomModelOptions& model, uint32_t num_tokens, DType kv_dtype,
               double ceiling_gflops) {
  std::vector<uint32_t> tokens(num_tokens);
  std::mt19937 random(1);
  for (uint32_t& token : tokens) token = random() % model.vocab_size;
  const RealClock clock;
  const int64_t begin_ns = clock.NowNs();
  absl::StatusOr<std::unique_ptr<Prefill>> prefill = device.BeginPrefill(tokens, kv_dtype);
  if (!prefill.ok()) {
    fmt::print(stderr, "{}\n", prefill.status().ToString());
    std::exit(1);
  }
  const double gflop = LayerGflop(model, num_tokens);
  fmt::print("{} tokens, KV {}\n  layer   project s   attend s   GFLOP/s   % of sgemm\n", num_tokens,
             DTypeName(kv_dtype));
  for (uint32_t layer = 0; layer < model.num_layers; ++layer) {
    double seconds[2] = {};
    for (int step = 0; step < 2; ++step) {
      const int64_t start_ns = clock.NowNs();
      for (uint32_t begin = 0; begin < num_tokens; begin += kPrefillChunkTokens) {
        const uint32_t end = std::min(begin + kPrefillChunkTokens, num_tokens);
        step == 0 ? (*prefill)->Project(layer, begin, end) : (*prefill)->Attend(layer, begin, end);
      }
      seconds[step] = SecondsFromNs(clock.NowNs() - start_ns);
    }
    if (layer + 1 == model.num_layers) {
      fmt::print("  {:5}   {:9.3f}   {:8.3f}   (attends for the last token only)\n", layer, seconds[0], seconds[1]);
      continue;
    }
    const double rate = gflop / (seconds[0] + seconds[1]);
    fmt::print("  {:5}   {:9.3f}   {:8.3f}   {:7.1f}   {:8.1f}\n", layer, seconds[0], seconds[1], rate,
               100 * rate / ceiling_gflops);
  }
  (*prefill)->End();
  const double total_s = SecondsFromNs(clock.NowNs() - begin_ns);
  prefill->reset();
  fmt::print("  total {:.3f} s, {:.0f} tokens/s\n", total_s, num_tokens / total_s);
}

int Main(int argc, char** argv) {
  std::vector<uint32_t> lengths = {4096, 16384};
  int num_threads = static_cast<int>(AllowedCpus().size());
  std::string kv_dtype_name = "f32";
  CLI::App app("Prefill on the host device, probe geometry");
  app.add_option("--tokens", lengths, "prompt lengths")->delimiter(',');
  app.add_option("--threads", num_threads, "threads, the caller included");
  app.add_option("--kv-dtype", kv_dtype_name, "f32, bf16 or f16");
  CLI11_PARSE(app, argc, argv);
  const absl::StatusOr<DType> kv_dtype = ParseDType(kv_dtype_name);
  const RandomModelOptions model = ProbeGeometry();
  const TempDir dir;
  WriteRandomModel(dir.path(), model);
  const auto weights = LoadModelWeights(dir.path());
  const DeviceLimits limits{.max_batch = 1, .max_prefill_tokens = *std::max_element(lengths.begin(), lengths.end())};
  const auto device = weights.ok() ? MakeHostDevice(*weights, limits, num_threads) : weights.status();
  for (const absl::Status& status : {kv_dtype.status(), weights.status(), device.status()}) {
    if (status.ok()) continue;
    fmt::print(stderr, "{}\n", status.ToString());
    return 1;
  }
  const double ceiling_gflops = SgemmCeiling(num_threads);
  fmt::print(
      "{} threads, BLAS kernels {}, row kernels {}; sgemm of 1024^3 on each at once: {:.1f} "
      "GFLOP/s\n",
      num_threads, BlasLibrary::Loaded().get_corename(), BestRowKernels().name, ceiling_gflops);
  for (const uint32_t num_tokens : lengths) RunPrompt(**device, model, num_tokens, *kv_dtype, ceiling_gflops);
  return 0;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }
