// A decode step by stage, over real UCX and real CPU attention, with the host device and a model's weights, or with a
// device of some geometry that computes nothing. Prints the stage table; bytes that a step must read on the nodes, and
// what share of the step that is at the read bandwidth measured in the same run; and, for devices that compute nothing,
// the step beside the kernel's own time for the same bytes on as many threads, measured between the steps.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <thread>

#include "CLI/CLI.hpp"
#include "base/log.h"
#include "base/status.h"
#include "benchmarks/step/bench_cluster.h"
#include "benchmarks/step/kernel_alone.h"
#include "benchmarks/step/synthetic_device.h"
#include "benchmarks/support/median.h"
#include "benchmarks/support/read_bandwidth.h"
#include "fmt/format.h"
#include "gpu_worker/device/host/host_device.h"
#include "gpu_worker/engine/decode_engine.h"
#include "nlohmann/json.hpp"

namespace tributary {
namespace {

struct Flags {
  std::vector<std::string> workloads = {"models/probe", "llama3-8b"};
  std::vector<uint32_t> batches = {1, 8};
  uint32_t context_tokens = 8192;
  uint32_t window_tokens = 1024;
  uint32_t steps = 50;
  int nodes = 2;
  int node_threads = 1;
  std::string kv_dtype = "bf16";
  std::string remote_k_dtype;  // "" = kv_dtype
  std::string remote_v_dtype;
  std::string tls;
  bool json = false;
};

// The device under the engine, and what the plan needs to know of it.
struct Bench {
  std::unique_ptr<Device> device;
  ModelLimits model;
  float softmax_scale = 0;
  bool is_synthetic = false;  // computes nothing: a step is what the service takes
};

absl::StatusOr<Bench> MakeBench(const Flags& flags, const std::string& workload, uint32_t batch) {
  DeviceLimits limits;
  limits.max_batch = batch;
  limits.max_partial_slots = static_cast<uint32_t>(flags.nodes);
  limits.max_prefill_tokens = flags.context_tokens;
  Bench bench;
  if (std::filesystem::is_directory(workload)) {
    TRIBUTARY_ASSIGN_OR_RETURN(std::shared_ptr<const ModelWeights> weights, LoadModelWeights(workload));
    const ModelConfig& config = weights->config;
    bench.model = {.shape = config.attention,
                   .num_layers = config.num_layers,
                   .vocab_size = config.vocab_size,
                   .max_partial_slots = limits.max_partial_slots};
    bench.softmax_scale = static_cast<float>(config.softmax_scale);
    limits.resident_pool_bytes = uint64_t{1} << 30;
    TRIBUTARY_ASSIGN_OR_RETURN(bench.device, MakeHostDevice(weights, limits, 1));
    return bench;
  }
  SyntheticGeometry geometry;
  if (workload == "llama3-8b") {
    geometry = {{32, 8, 128}, 32};
  } else if (workload == "probe-geometry") {
    geometry = {{8, 2, 64}, 6};
  } else {
    return absl::InvalidArgumentError(
        fmt::format("unknown workload '{}'; use llama3-8b, probe-geometry or a model's folder", workload));
  }
  bench.model = {.shape = geometry.shape,
                 .num_layers = geometry.num_layers,
                 .vocab_size = SyntheticDevice::kVocabSize,
                 .max_partial_slots = limits.max_partial_slots};
  bench.softmax_scale = 1.0f / std::sqrt(static_cast<float>(geometry.shape.head_dim));
  bench.device = std::make_unique<SyntheticDevice>(geometry, limits, 7);
  bench.is_synthetic = true;
  return bench;
}

class Recorder final : public EngineEvents {
 public:
  void OnPrefillProgress(SequenceId, uint32_t, uint32_t, double) override {}
  void OnTokens(const SequenceTokens&) override { ++num_started; }
  void OnStepDone(StepId, std::span<const SequenceTokens> tokens, double step_s) override {
    step_us.push_back(step_s * 1e6);
  }
  void OnEnded(SequenceId, const absl::Status& status, const std::string&, const SequenceSummary& summary) override {
    if (!status.ok()) failure = status;
    last = summary;
    ++num_ended;
  }
  uint32_t num_started = 0;
  uint32_t num_ended = 0;
  absl::Status failure;
  SequenceSummary last;
  std::vector<double> step_us;
  std::vector<double> kernel_us_per_mb;  // beside each step
};

struct DTypes {
  DType exchange = DType::kUnset;
  DType k = DType::kUnset;  // stored on the nodes
  DType v = DType::kUnset;
};

absl::StatusOr<DTypes> ParseDTypes(const Flags& flags) {
  DTypes dtypes;
  TRIBUTARY_ASSIGN_OR_RETURN(dtypes.exchange, ParseDType(flags.kv_dtype));
  dtypes.k = dtypes.v = dtypes.exchange;
  if (!flags.remote_k_dtype.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(dtypes.k, ParseKvDType(flags.remote_k_dtype));
  }
  if (!flags.remote_v_dtype.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(dtypes.v, ParseKvDType(flags.remote_v_dtype));
  }
  return dtypes;
}

absl::StatusOr<SequencePlan> MakePlan(const Flags& flags, const ModelLimits& model, BenchCluster& cluster, uint64_t id,
                                      const DTypes& dtypes) {
  SequencePlan plan;
  plan.sequence_id = SequenceId(id);
  plan.epoch = Epoch(1);
  plan.prompt_tokens.assign(flags.context_tokens, 1);
  plan.max_tokens = flags.steps + 1;
  plan.layout = {64, flags.window_tokens, 64, false};
  plan.kv_dtype = dtypes.exchange;
  const uint64_t stripe_tokens = 256;
  const uint64_t round_tokens = stripe_tokens * static_cast<uint64_t>(flags.nodes);
  const uint64_t rounds = (plan.max_context_tokens() + round_tokens - 1) / round_tokens;
  for (int node = 0; node < flags.nodes; ++node) {
    ShardSpec spec;
    spec.shard_id = ShardId(id * 100 + static_cast<uint64_t>(node));
    spec.sequence_id = plan.sequence_id;
    spec.epoch = plan.epoch;
    spec.model = model.shape;
    spec.num_layers = spec.layer_end = model.num_layers;
    spec.kv_head_end = model.shape.num_kv_heads;
    spec.stripe = {64, stripe_tokens, static_cast<uint32_t>(flags.nodes), static_cast<uint32_t>(node)};
    spec.capacity_tokens = rounds * stripe_tokens;
    spec.k_dtype = dtypes.k;
    spec.v_dtype = dtypes.v;
    TRIBUTARY_ASSIGN_OR_RETURN(ShardPlacement route, cluster.OpenShard(node, spec));
    plan.shards.push_back(route);
  }
  return plan;
}

absl::StatusOr<KernelAlone> MakeKernelAlone(const Flags& flags, const ModelLimits& model, const DTypes& dtypes) {
  KernelAloneOptions options;
  options.layout =
      MakeKvTileLayout(static_cast<KvStorage>(dtypes.k), static_cast<KvStorage>(dtypes.v), model.shape.head_dim);
  options.group_size = model.shape.group_size();
  options.tokens_per_stream = flags.context_tokens / static_cast<uint32_t>(flags.nodes);
  options.num_threads = flags.nodes * flags.node_threads;
  return KernelAlone::Create(options);
}

absl::Status RunEngine(const Flags& flags, const Bench& bench, BenchCluster& cluster, uint32_t batch,
                       const DTypes& dtypes, Recorder& recorder) {
  UcxOptions ucx;
  ucx.tls = flags.tls;
  TRIBUTARY_ASSIGN_OR_RETURN(std::unique_ptr<UcxDataPlane> plane, MakeUcxDataPlane(ucx));
  EngineOptions options;
  options.model = bench.model;
  options.softmax_scale = bench.softmax_scale;
  TRIBUTARY_ASSIGN_OR_RETURN(
      std::unique_ptr<DecodeEngine> engine,
      DecodeEngine::Create(options, bench.device.get(), plane.get(), &cluster, cluster.clock(), &recorder));
  StepCommand step;
  for (uint32_t i = 0; i < batch; ++i) {
    TRIBUTARY_ASSIGN_OR_RETURN(SequencePlan plan, MakePlan(flags, bench.model, cluster, i + 1, dtypes));
    step.sequence_ids.push_back(plan.sequence_id);
    engine->Start(std::move(plan));
  }
  while (recorder.num_started < batch && recorder.failure.ok()) {
    if (!engine->RunOnce()) plane->WaitForEvent(kNsPerMs);
  }
  TRIBUTARY_RETURN_IF_ERROR(recorder.failure);
  std::optional<KernelAlone> kernel;
  if (bench.is_synthetic) {
    TRIBUTARY_ASSIGN_OR_RETURN(kernel, MakeKernelAlone(flags, bench.model, dtypes));
  }
  for (uint64_t i = 1; recorder.num_ended < batch && i <= 2 * flags.steps; ++i) {
    step.step_id = StepId(i);
    engine->Step(step);
    engine->RunOnce();
    if (kernel.has_value()) recorder.kernel_us_per_mb.push_back(kernel->RunUsPerMb());
  }
  return recorder.failure;
}

// Bytes of K and V that the nodes must read for one step of the batch.
uint64_t RemoteKvBytes(const Recorder& recorder, uint32_t batch) {
  uint64_t bytes = 0;
  for (const NodeShare& node : recorder.last.nodes) bytes += node.kv_bytes;
  return bytes * batch;
}

// Median over the steps of: step / kernel's time for the same bytes, measured right after it.
double RatioToKernel(const Recorder& recorder, uint64_t kv_bytes) {
  std::vector<double> ratios;
  for (size_t i = 0; i < recorder.step_us.size() && i < recorder.kernel_us_per_mb.size(); ++i) {
    const double kernel_us = recorder.kernel_us_per_mb[i] * static_cast<double>(kv_bytes) * 1e-6;
    ratios.push_back(recorder.step_us[i] / kernel_us);
  }
  return ratios.empty() ? 0 : MedianOf(std::move(ratios));
}

void PrintRow(const Flags& flags, const nlohmann::json& row, const SequenceSummary& summary) {
  fmt::print(
      "\n{}: batch {}, context {} tokens, {} remote on {} nodes ({}); stages are means of {} "
      "steps, the step is their median\n",
      row["workload"].get<std::string>(), row["batch"].get<uint32_t>(), summary.context_tokens, summary.remote_tokens,
      flags.nodes, flags.kv_dtype, flags.steps);
  double total_s = 0;
  for (const StageTime& stage : summary.stages) total_s += stage.seconds;
  for (const StageTime& stage : summary.stages) {
    fmt::print("  {:<20} {:>10.1f} us {:>6.1f} %\n", stage.stage, stage.seconds * 1e6, 100 * stage.seconds / total_s);
  }
  fmt::print("  {:<20} {:>10.1f} us; KV read {:.1f} MB = {:.1f} GB/s, {:.0f} % of {:.1f} GB/s\n", "step",
             row["us_median"].get<double>(), row["kv_bytes"].get<double>() * 1e-6, row["gb_per_s"].get<double>(),
             100 * row["ratio_to_ceiling"].get<double>(), row["ceiling_gb_per_s"].get<double>());
  if (row.contains("ratio_to_kernel")) {
    fmt::print("  {:<20} {:>10.1f} us for the same bytes; step / kernel {:.3f} (median of pairs)\n", "kernel alone",
               row["kernel_us_median"].get<double>(), row["ratio_to_kernel"].get<double>());
  }
  std::fflush(stdout);
}

// Room for every sequence's shards: whole extents of each layer, KV head, K and V.
uint64_t PoolBytes(const Flags& flags, const Bench& bench, uint32_t batch, const DTypes& dtypes) {
  const bool wide = dtypes.k == DType::kF32 || dtypes.v == DType::kF32;
  const uint64_t tokens_bytes = bench.device->KvBytesPerToken(wide ? DType::kF32 : DType::kF16) *
                                (flags.context_tokens + 2048) / static_cast<uint64_t>(flags.nodes);
  const uint64_t extents = uint64_t{bench.model.num_layers} * bench.model.shape.num_kv_heads * 4;
  return batch * (tokens_bytes + (extents << 19));
}

absl::Status RunBatch(const Flags& flags, const std::string& workload, uint32_t batch, nlohmann::json& rows) {
  TRIBUTARY_ASSIGN_OR_RETURN(const DTypes dtypes, ParseDTypes(flags));
  TRIBUTARY_ASSIGN_OR_RETURN(Bench bench, MakeBench(flags, workload, batch));
  BenchClusterOptions cluster_options;
  cluster_options.num_nodes = flags.nodes;
  cluster_options.threads_per_node = flags.node_threads;
  cluster_options.tls = flags.tls;
  cluster_options.kv_pool_bytes = PoolBytes(flags, bench, batch, dtypes);
  TRIBUTARY_ASSIGN_OR_RETURN(std::unique_ptr<BenchCluster> cluster, BenchCluster::Create(cluster_options));
  Recorder recorder;
  TRIBUTARY_RETURN_IF_ERROR(RunEngine(flags, bench, *cluster, batch, dtypes, recorder));
  cluster.reset();
  const double ceiling_gb_per_s = MeasureReadBandwidthGbPerS(
      std::min<int>(flags.nodes * flags.node_threads, static_cast<int>(std::thread::hardware_concurrency())));
  const double step_us = MedianOf(recorder.step_us);
  const uint64_t kv_bytes = RemoteKvBytes(recorder, batch);
  nlohmann::json row = {{"workload", workload},
                        {"batch", batch},
                        {"context_tokens", recorder.last.context_tokens},
                        {"remote_tokens", recorder.last.remote_tokens},
                        {"us_median", step_us},
                        {"kv_bytes", kv_bytes},
                        {"ceiling_gb_per_s", ceiling_gb_per_s},
                        {"gb_per_s", static_cast<double>(kv_bytes) / (step_us * 1e3)},
                        {"ratio_to_ceiling", static_cast<double>(kv_bytes) / (step_us * 1e3) / ceiling_gb_per_s}};
  if (bench.is_synthetic) {
    row["ratio_to_kernel"] = RatioToKernel(recorder, kv_bytes);
    row["kernel_us_median"] = MedianOf(recorder.kernel_us_per_mb) * static_cast<double>(kv_bytes) * 1e-6;
  }
  for (const StageTime& stage : recorder.last.stages) {
    row["stages_us"][stage.stage] = stage.seconds * 1e6;
  }
  if (!flags.json) PrintRow(flags, row, recorder.last);
  rows.push_back(std::move(row));
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("One decode step by stage, over UCX and CPU attention");
  app.add_option("--workload", flags.workloads,
                 "Folders of models (host device), or llama3-8b or probe-geometry: that geometry on "
                 "a device that computes nothing")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--batch", flags.batches, "Batch sizes")->delimiter(',')->capture_default_str();
  app.add_option("--context-tokens", flags.context_tokens, "Prompt length")->capture_default_str();
  app.add_option("--window-tokens", flags.window_tokens, "Resident window")->capture_default_str();
  app.add_option("--steps", flags.steps, "Decode steps to time")->capture_default_str();
  app.add_option("--nodes", flags.nodes, "CPU attention nodes (threads of this process)")->capture_default_str();
  app.add_option("--node-threads", flags.node_threads, "Threads per node")->capture_default_str();
  app.add_option("--kv-dtype", flags.kv_dtype, "bf16, f16 or f32")->capture_default_str();
  app.add_option("--remote-k-dtype", flags.remote_k_dtype,
                 "Storage of K on the nodes: also int8, int4, fp8-e4m3; as --kv-dtype by default");
  app.add_option("--remote-v-dtype", flags.remote_v_dtype, "Storage of V on the nodes");
  app.add_option("--tls", flags.tls, "UCX_TLS list, e.g. posix,sysv,self or tcp,self; empty: UCX chooses");
  app.add_flag("--json", flags.json, "Print one JSON object");
  CLI11_PARSE(app, argc, argv);
  if (absl::Status status = InitLogging("decode_step_bench", "warn"); !status.ok()) return 1;
  nlohmann::json rows = nlohmann::json::array();
  for (const std::string& workload : flags.workloads) {
    for (uint32_t batch : flags.batches) {
      if (absl::Status status = RunBatch(flags, workload, batch, rows); !status.ok()) {
        fmt::print(stderr, "decode_step_bench: {}\n", std::string(status.message()));
        return 1;
      }
    }
  }
  if (flags.json) fmt::print("{}\n", nlohmann::json{{"rows", rows}}.dump(1));
  return 0;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }
