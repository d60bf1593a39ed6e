// The kernels of a decode step on the GPU, of Llama-3-8B's geometry: attention over a window of 4096 tokens with the
// merge of 4 remote partials, matrix-vector products, and all of a layer, each against the bytes it must read at the
// speed of a plain read in the same run. Work goes round over more memory than the L2 cache holds.
//
//   gpu_attention_bench [--json] [--sweep]
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "CLI/CLI.hpp"
#include "benchmarks/gpu/gpu_bench_support.h"
#include "fmt/format.h"
#include "gpu_worker/device/cuda/kernels/attend.h"
#include "gpu_worker/device/cuda/kernels/fetch.h"
#include "gpu_worker/device/cuda/kernels/matvec.h"
#include "gpu_worker/device/cuda/kernels/merge.h"
#include "gpu_worker/device/cuda/kernels/norm.h"
#include "gpu_worker/device/cuda/kernels/qkv.h"
#include "gpu_worker/device/cuda/kernels/sample.h"

namespace tributary {
namespace {

constexpr gpu::KvGeometry kGeometry{32, 8, 128};
constexpr uint32_t kHidden = 4096, kIntermediate = 14336, kVocab = 128256, kWindow = 4096, kSlots = 4;
constexpr uint32_t kQDim = 4096, kQkvDim = 6144;
constexpr uint64_t kTokenBytes = 2 * 8 * 128 * 2;    // K and V of one layer, bf16
constexpr uint64_t kRoundBytes = uint64_t{1} << 30;  // of KV or weights: many times the L2 cache
constexpr int kReplays = 15;

// A batch whose KV has several layers, to go round over.
struct Batch {
  explicit Batch(uint32_t num_rows, gpu::SplitRule split_rule, uint32_t tokens = kWindow)
      : num_rows(num_rows), tokens(tokens), rule(split_rule) {
    const uint64_t layer_bytes = uint64_t{num_rows} * tokens * kTokenBytes;
    layers = static_cast<uint32_t>(std::max<uint64_t>(2, kRoundBytes / layer_bytes));
    kv = MakeDeviceBuffer(layers * layer_bytes);
    FillRandomBf16(kv, 1);
    std::vector<gpu::DecodeRowDesc> host(num_rows);
    for (uint32_t r = 0; r < num_rows; ++r) {
      host[r].region = kv.data() + uint64_t{r} * layers * tokens * kTokenBytes;
      host[r].pos = r;
      host[r].capacity_tokens = tokens;
      host[r].kv_dtype = DType::kBf16;
      host[r].attend[0] = {0, tokens / 4};
      host[r].attend[1] = {tokens / 2, tokens};
      host[r].attend[2] = {tokens / 4, tokens / 2};
    }
    const uint64_t rows_bytes = host.size() * sizeof(gpu::DecodeRowDesc);
    rows = MakeDeviceBuffer(rows_bytes);
    CheckCuda(cudaMemcpy(rows.data(), host.data(), rows_bytes, cudaMemcpyHostToDevice), "rows");
    q = MakeFloats(uint64_t{num_rows} * kQDim);
    out = MakeFloats(uint64_t{num_rows} * kIntermediate);
    workspace = MakeDeviceBuffer(gpu::AttendWorkspaceBytes(num_rows, kGeometry, rule));
  }
  static DeviceBuffer MakeFloats(uint64_t count) {
    DeviceBuffer buffer = MakeDeviceBuffer(count * 4);
    FillRandomBf16(buffer, 2);
    return buffer;
  }

  gpu::AttendArgs attend(uint32_t layer) const {
    return {.rows = rows.as<gpu::DecodeRowDesc>(),
            .num_rows = num_rows,
            .kv_dtype = DType::kBf16,
            .layer = layer,
            .geometry = kGeometry,
            .softmax_scale = 0.0883883f,
            .q = q.as<float>(),
            .rule = rule,
            .workspace = gpu::MakeAttendWorkspace(workspace.data(), num_rows, kGeometry, rule)};
  }
  gpu::MergeArgs merge() const {
    return {.rows = rows.as<gpu::DecodeRowDesc>(),
            .num_rows = num_rows,
            .geometry = kGeometry,
            .rule = rule,
            .workspace = gpu::MakeAttendWorkspace(workspace.data(), num_rows, kGeometry, rule),
            .out = out.data(),
            .out_dtype = DType::kBf16};
  }

  uint32_t num_rows, tokens, layers = 0;
  gpu::SplitRule rule;
  DeviceBuffer kv, rows, q, out, workspace;
};

// Remote partials: in pinned memory of the host, where they arrive, and in device memory.
struct Partials {
  explicit Partials(uint32_t num_rows)
      : out_bytes(uint64_t{num_rows} * kSlots * kQDim * 4),
        lse_bytes(uint64_t{num_rows} * kSlots * kGeometry.num_q_heads * 4),
        host(MakePinnedBuffer(out_bytes + lse_bytes + num_rows * 4)),
        device(MakeDeviceBuffer(host.bytes())),
        flag(MakePinnedBuffer(256)),
        words(MakeDeviceBuffer(256)) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& x : host.span<float>()) x = normal(random);
    const std::vector<uint32_t> counts(num_rows, kSlots);
    std::memcpy(host.data() + out_bytes + lse_bytes, counts.data(), num_rows * 4);
    flag.as<uint64_t>()[0] = gpu::HostFlag(1, gpu::EvenSlots(num_rows, kSlots));
    CheckCuda(cudaMemcpy(words.data(), flag.data(), 4, cudaMemcpyDefault), "step number");
    CheckCuda(cudaMemcpy(device.data(), host.data(), host.bytes(), cudaMemcpyDefault), "partials");
  }
  template <typename T>
  static T* At(std::byte* base, uint64_t offset) {
    return reinterpret_cast<T*>(base + offset);
  }
  gpu::FetchArgs fetch(uint32_t num_rows) const {
    return {.await = {.flag = flag.as<uint64_t>(),
                      .value = words.as<uint32_t>(),
                      .error = flag.as<uint32_t>() + 32,
                      .timeout_ns = 1'000'000'000},
            .go = words.as<uint64_t>() + 16,
            .num_rows = num_rows,
            .max_slots = kSlots,
            .geometry = kGeometry,
            .host_num_slots = At<uint32_t>(host.data(), out_bytes + lse_bytes),
            .host_out = host.as<float>(),
            .host_lse_ln = At<float>(host.data(), out_bytes),
            .num_slots = At<uint32_t>(device.data(), out_bytes + lse_bytes),
            .out = device.as<float>(),
            .lse_ln = At<float>(device.data(), out_bytes)};
  }
  void AddTo(gpu::MergeArgs& merge) const {
    merge.num_slots = At<uint32_t>(device.data(), out_bytes + lse_bytes);
    merge.slot_out = device.as<float>();
    merge.slot_lse_ln = At<float>(device.data(), out_bytes);
    merge.max_slots = kSlots;
  }

  uint64_t out_bytes, lse_bytes;
  PinnedBuffer host;
  DeviceBuffer device;
  PinnedBuffer flag;
  DeviceBuffer words;
};

struct Bench {
  gpu::Launch launch;
  double read_gb_per_s = 0;
  std::vector<GpuBenchRow> rows;

  void AddBytesRow(const std::string& name, double us, double bytes) {
    rows.push_back({.name = name,
                    .value = us,
                    .unit = "us",
                    .ceiling = bytes / read_gb_per_s / 1e3,
                    .ceiling_name = "us (bytes / read rate)",
                    .ratio = bytes / read_gb_per_s / 1e3 / us});
  }
};

// Where the remote partials come from: nowhere, device memory, or the host's by FetchPartials().
enum class From { kNowhere, kDevice, kHost };

double AttendUs(const Bench& bench, const Batch& batch, From from) {
  const Partials partials(batch.num_rows);
  gpu::MergeArgs merge = batch.merge();
  if (from != From::kNowhere) partials.AddTo(merge);
  const double us = MedianGraphUs(bench.launch.stream, kReplays, [&] {
    for (uint32_t layer = 0; layer < batch.layers; ++layer) {
      CheckCuda(gpu::Attend(batch.attend(layer), bench.launch), "Attend");
      if (from == From::kHost) {
        CheckCuda(gpu::FetchPartials(partials.fetch(batch.num_rows), bench.launch), "Fetch");
      }
      CheckCuda(gpu::MergePartials(merge, bench.launch), "MergePartials");
    }
  });
  return us / batch.layers;
}

void BenchWindow(Bench& bench) {
  const struct {
    uint32_t rows;
    double bar_us;
  } cases[] = {{1, 38.8}, {8, 81.6}, {32, 196.0}};
  for (const auto& c : cases) {
    const Batch batch(c.rows, {gpu::SplitTokensFor(c.rows), 64});
    const double bytes = static_cast<double>(c.rows) * kWindow * kTokenBytes;
    bench.AddBytesRow(fmt::format("window 4096 + merge of 4, batch {}", c.rows), AttendUs(bench, batch, From::kDevice),
                      bytes);
    bench.rows.back().bar = fmt::format("<= {} us", c.bar_us);
    bench.rows.back().ok = bench.rows.back().value <= c.bar_us;
    bench.AddBytesRow(fmt::format("window 4096 + fetch and merge of 4, batch {}", c.rows),
                      AttendUs(bench, batch, From::kHost), bytes);
    bench.AddBytesRow(fmt::format("window 4096 alone, batch {}", c.rows), AttendUs(bench, batch, From::kNowhere),
                      bytes);
  }
  const Batch long_batch(1, {gpu::SplitTokensFor(1), 64}, 131072);
  bench.AddBytesRow("all resident, 131072 tokens, batch 1", AttendUs(bench, long_batch, From::kNowhere),
                    131072.0 * kTokenBytes);
}

void SweepSplits(Bench& bench) {
  for (const uint32_t num_rows : {1u, 8u, 32u}) {
    for (const uint32_t split : {64u, 128u, 256u, 512u, 1024u}) {
      const Batch batch(num_rows, {split, 64});
      bench.AddBytesRow(fmt::format("window 4096, batch {}, splits of {}", num_rows, split),
                        AttendUs(bench, batch, From::kNowhere), static_cast<double>(num_rows) * kWindow * kTokenBytes);
    }
  }
}

void BenchMatVec(Bench& bench, DeviceBuffer& weights) {
  const struct {
    const char* name;
    uint32_t in, out;
    gpu::MatVecEpilogue epilogue;
  } shapes[] = {{"qkv", kHidden, kQkvDim, gpu::MatVecEpilogue::kStore},
                {"o", kQDim, kHidden, gpu::MatVecEpilogue::kAddResidual},
                {"gate, up, silu", kHidden, 2 * kIntermediate, gpu::MatVecEpilogue::kSiluMul},
                {"down", kIntermediate, kHidden, gpu::MatVecEpilogue::kAddResidual},
                {"lm_head", kHidden, kVocab, gpu::MatVecEpilogue::kStore}};
  for (const uint32_t rows : {1u, 8u, 16u}) {
    DeviceBuffer x = Batch::MakeFloats(uint64_t{rows} * kIntermediate);
    DeviceBuffer y = Batch::MakeFloats(uint64_t{rows} * kVocab);
    for (const auto& shape : shapes) {
      const uint64_t bytes = uint64_t{shape.in} * shape.out * 2;
      const auto count = static_cast<uint32_t>(weights.bytes() / bytes);
      const double us = MedianGraphUs(bench.launch.stream, kReplays, [&] {
        for (uint32_t i = 0; i < count; ++i) {
          CheckCuda(gpu::MatVec({.weights = weights.data() + i * bytes,
                                 .weight_dtype = DType::kBf16,
                                 .x = x.data(),
                                 .y = y.data(),
                                 .y_dtype = DType::kF32,
                                 .rows = rows,
                                 .in = shape.in,
                                 .out = shape.out,
                                 .epilogue = shape.epilogue},
                                bench.launch),
                    "MatVec");
        }
      });
      bench.AddBytesRow(fmt::format("matrix-vector {}, batch {}", shape.name, rows), us / count,
                        static_cast<double>(bytes));
    }
  }
}

// Parts of a layer, to leave out one at a time and see what it costs.
enum Part : uint32_t { kNorms = 1, kQkvRope = 2, kAttend = 4, kMerge = 8, kProducts = 16, kAllParts = 31 };

// The kernels of one layer, in the order of a decode step.
struct LayerBench {
  void MatVec(uint64_t offset, const void* x, void* y, DType y_dtype, uint32_t in, uint32_t out,
              gpu::MatVecEpilogue epilogue) const {
    if ((parts & kProducts) == 0) return;
    CheckCuda(gpu::MatVec({.weights = weights + offset * 2,
                           .weight_dtype = DType::kBf16,
                           .x = x,
                           .y = y,
                           .y_dtype = y_dtype,
                           .rows = batch.num_rows,
                           .in = in,
                           .out = out,
                           .epilogue = epilogue},
                          launch),
              "MatVec");
  }
  void Norm() const {
    if ((parts & kNorms) == 0) return;
    CheckCuda(gpu::RmsNorm({.hidden = hidden,
                            .weight = weight,
                            .eps = 1e-5f,
                            .normed = normed,
                            .normed_dtype = DType::kBf16,
                            .rows = batch.num_rows,
                            .hidden_size = kHidden},
                           launch),
              "RmsNorm");
  }
  void FinishQkv(uint32_t layer) const {
    if ((parts & kQkvRope) == 0) return;
    CheckCuda(gpu::FinishQkv({.input = {.qkv = qkv,
                                        .dtype = DType::kF32,
                                        .cos = weight,
                                        .sin = weight,
                                        .pairs = {kGeometry.head_dim / 2},
                                        .num_rows = batch.num_rows,
                                        .geometry = kGeometry},
                              .rows = batch.rows.as<gpu::DecodeRowDesc>(),
                              .layer = layer,
                              .q = batch.q.as<float>()},
                             launch),
              "FinishQkv");
  }
  void Record(uint32_t layer) const {
    constexpr uint64_t kO = uint64_t{kHidden} * kQkvDim, kGate = kO + uint64_t{kHidden} * kQDim,
                       kDown = kGate + uint64_t{kHidden} * 2 * kIntermediate;
    Norm();
    MatVec(0, normed, qkv, DType::kF32, kHidden, kQkvDim, gpu::MatVecEpilogue::kStore);
    FinishQkv(layer);
    if ((parts & kAttend) != 0) CheckCuda(gpu::Attend(batch.attend(layer), launch), "Attend");
    if ((parts & kMerge) != 0) CheckCuda(gpu::MergePartials(batch.merge(), launch), "Merge");
    MatVec(kO, batch.out.data(), hidden, DType::kF32, kQDim, kHidden, gpu::MatVecEpilogue::kAddResidual);
    Norm();
    MatVec(kGate, normed, mlp, DType::kBf16, kHidden, 2 * kIntermediate, gpu::MatVecEpilogue::kSiluMul);
    MatVec(kDown, mlp, hidden, DType::kF32, kIntermediate, kHidden, gpu::MatVecEpilogue::kAddResidual);
  }

  gpu::Launch launch;
  const Batch& batch;
  const std::byte* weights;
  uint32_t parts;
  float *hidden, *qkv, *normed, *mlp;
  const float* weight;  // of the norms; cos and sin, too
};

constexpr uint64_t kLayerBytes = 2 * uint64_t{kHidden} * (kQkvDim + kQDim + 3 * uint64_t{kIntermediate});

double LayerUs(const Bench& bench, const Batch& batch, const DeviceBuffer& weights, uint32_t parts) {
  const uint32_t rows = batch.num_rows;
  const DeviceBuffer floats = Batch::MakeFloats(uint64_t{rows} * 64 * kHidden);
  LayerBench layer{.launch = bench.launch, .batch = batch, .weights = nullptr, .parts = parts};
  layer.hidden = floats.as<float>();
  layer.qkv = layer.hidden + uint64_t{rows} * kHidden;
  layer.normed = layer.qkv + uint64_t{rows} * kQkvDim;
  layer.mlp = layer.normed + uint64_t{rows} * kHidden;
  layer.weight = layer.mlp + uint64_t{rows} * kIntermediate;
  const auto count = static_cast<uint32_t>(weights.bytes() / kLayerBytes);
  const double us = MedianGraphUs(bench.launch.stream, kReplays, [&] {
    for (uint32_t i = 0; i < count; ++i) {
      layer.weights = weights.data() + i * kLayerBytes;
      layer.Record(i % batch.layers);
    }
  });
  return us / count;
}

void BenchLayer(Bench& bench, const DeviceBuffer& weights, bool sweep) {
  for (const uint32_t rows : {1u, 8u}) {
    for (const uint32_t tokens : {64u, kWindow}) {
      const Batch batch(rows, {gpu::SplitTokensFor(rows), 64}, tokens);
      bench.AddBytesRow(fmt::format("layer, {} tokens resident, batch {}", tokens, rows),
                        LayerUs(bench, batch, weights, kAllParts),
                        static_cast<double>(kLayerBytes) + static_cast<double>(rows) * tokens * kTokenBytes);
      bench.rows.back().bar = "<= 1.2x";
      bench.rows.back().ok = *bench.rows.back().ratio >= 1 / 1.2;
      if (!sweep) continue;
      const double all_us = bench.rows.back().value;
      const char* const names[] = {"norms", "qkv, rope", "attend", "merge", "products"};
      for (uint32_t part = 0; part < 5; ++part) {
        bench.rows.push_back({.name = fmt::format("  share of {}", names[part]),
                              .value = all_us - LayerUs(bench, batch, weights, kAllParts & ~(1u << part)),
                              .unit = "us"});
      }
    }
  }
}

void BenchSample(Bench& bench) {
  const struct {
    const char* name;
    gpu::SampleRowDesc row;
  } cases[] = {{"greedy", {}},
               {"temperature", {.temperature = 0.8f}},
               {"temperature, top-k 50, top-p 0.95", {.temperature = 0.8f, .top_p = 0.95f, .top_k = 50}}};
  for (const uint32_t num_rows : {1u, 32u}) {
    std::vector<float> host(uint64_t{num_rows} * kVocab);
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 3.0f);
    for (float& x : host) x = normal(random);
    const DeviceBuffer logits = MakeDeviceBuffer(host.size() * 4);
    const DeviceBuffer results = MakeDeviceBuffer(num_rows * sizeof(gpu::SampleResult));
    const DeviceBuffer rows = MakeDeviceBuffer(num_rows * sizeof(gpu::SampleRowDesc));
    CheckCuda(cudaMemcpy(logits.data(), host.data(), logits.bytes(), cudaMemcpyDefault), "logits");
    for (const auto& c : cases) {
      const std::vector<gpu::SampleRowDesc> descs(num_rows, c.row);
      CheckCuda(cudaMemcpy(rows.data(), descs.data(), rows.bytes(), cudaMemcpyDefault), "rows");
      const double us = MedianGraphUs(bench.launch.stream, kReplays, [&] {
        CheckCuda(gpu::Sample({.logits = logits.as<float>(),
                               .rows = rows.as<gpu::SampleRowDesc>(),
                               .results = results.as<gpu::SampleResult>(),
                               .num_rows = num_rows,
                               .vocab_size = kVocab},
                              bench.launch),
                  "Sample");
      });
      bench.rows.push_back({.name = fmt::format("sample {}, batch {}", c.name, num_rows), .value = us, .unit = "us"});
    }
  }
}

int Main(int argc, char** argv) {
  bool json = false, sweep = false;
  CLI::App app{"Kernels of a decode step on the GPU against the bytes they read"};
  app.add_flag("--json", json, "one line for tools/gpu_check");
  app.add_flag("--sweep", sweep, "several split sizes, and each part of a layer, too");
  CLI11_PARSE(app, argc, argv);
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    fmt::print(stderr, "gpu_attention_bench: no CUDA device on this machine\n");
    return 1;
  }
  auto stream = CudaStream::Make(false);
  CheckCuda(stream.ok() ? cudaSuccess : cudaErrorUnknown, "stream");
  int major = 0;
  CheckCuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "device");
  Bench bench{.launch = {stream->get(), major >= 9}, .read_gb_per_s = MeasureDeviceReadGbPerS()};
  bench.rows.push_back({.name = "plain read of device memory", .value = bench.read_gb_per_s, .unit = "GB/s"});
  BenchSample(bench);
  BenchWindow(bench);
  if (sweep) SweepSplits(bench);
  DeviceBuffer weights = MakeDeviceBuffer(uint64_t{3} << 30);
  FillRandomBf16(weights, 4);
  BenchMatVec(bench, weights);
  BenchLayer(bench, weights, sweep);
  PrintRows(bench.rows, json);
  return 0;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }
