// Whole decode steps on the GPU with dummy weights of a real geometry, through the same engine, data plane and CPU
// nodes as in a cluster:
//   resident   all KV on the GPU, against the bytes of weights and KV at the speed of a plain read
//   facet      what HGCA's facet (its average of attention weights) adds to such a step, and to a block that leaves
//   exchange   what a layer's exchange with 4 nodes costs when these have next to nothing to attend over
//   remote     a long context in the memory of CPU nodes, in bf16 and in int8, against its bytes at the CPUs' read
//              bandwidth, and against copying it to the GPU as bf16 in every step
//   prefill    a prompt that is computed, whose KV goes to the nodes meanwhile
//   longest    the longest context that fits the host, in a smaller KV dtype
// Prompts are not computed (benchmarks/gpu/filled_device.h); every other step of theirs is.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <thread>

#include "CLI/CLI.hpp"
#include "attention/kv/kv_tile_layout.h"
#include "base/log.h"
#include "base/status.h"
#include "benchmarks/gpu/filled_device.h"
#include "benchmarks/gpu/fork_cluster.h"
#include "benchmarks/gpu/gpu_bench_support.h"
#include "benchmarks/gpu/pcie_bandwidth.h"
#include "benchmarks/gpu/resident_steps.h"
#include "benchmarks/support/median.h"
#include "benchmarks/support/read_bandwidth.h"
#include "fmt/format.h"
#include "gpu_worker/device/cuda/cuda_device.h"
#include "gpu_worker/device/host/host_device.h"
#include "gpu_worker/engine/decode_engine.h"
#include "model/dummy_weights.h"
#include "transport/ucx/ucx_data_plane.h"

namespace tributary {
namespace {

struct Flags {
  std::string config = "benchmarks/configs/llama3-8b";
  std::string device = "cuda";
  std::vector<std::string> parts = {"resident", "facet", "exchange", "remote", "prefill", "longest"};
  std::vector<uint32_t> batches = {1, 8};
  std::vector<uint32_t> contexts = {4096, 32768};
  uint32_t steps = 24;
  uint32_t window_tokens = 4096;
  uint32_t remote_context = 131072;
  uint32_t prefill_tokens = 32768;
  uint32_t longest_context = 1u << 20;
  std::string longest_dtype = "int8";
  uint64_t pool_bytes = uint64_t{35} << 30;
  uint64_t node_pool_bytes = uint64_t{19} << 30;
  int nodes = 4;
  int node_threads = 0;
  uint32_t spin_us = 1000;
  bool json = false;
};

class Recorder final : public EngineEvents {
 public:
  explicit Recorder(const Device* device) : device_(device) {}
  void OnPrefillProgress(SequenceId, uint32_t, uint32_t, double) override {}
  void OnTokens(const SequenceTokens&) override { ++num_started; }
  void OnStepDone(StepId, std::span<const SequenceTokens>, double step_s) override {
    step_us.push_back(step_s * 1e6);
    const DeviceStepTimes times = device_->step_times();
    if (times.step_ns > 0) {
      idle_shares.push_back(static_cast<double>(times.remote_wait_ns) / static_cast<double>(times.step_ns));
    }
  }
  void OnEnded(SequenceId, const absl::Status& status, const std::string&, const SequenceSummary& summary) override {
    if (!status.ok()) failure = status;
    last = summary;
    ++num_ended;
  }
  void Reset() {
    num_started = num_ended = 0;
    failure = absl::OkStatus();
    step_us.clear();
    idle_shares.clear();
  }
  uint32_t num_started = 0;
  uint32_t num_ended = 0;
  absl::Status failure;
  SequenceSummary last;
  std::vector<double> step_us;
  std::vector<double> idle_shares;

 private:
  const Device* const device_;
};

// The nodes of the benchmark. Null nodes spin: once a part has used them, they are ended.
struct Clusters final : BlockingConnector {
  absl::StatusOr<NodeSession> Connect(const NodeEndpoint& node, const TransportInfo& local) override {
    return Of(node.node_id.starts_with("null")).Connect(node, local);
  }
  ForkCluster& Of(bool null) { return null ? *null_nodes : *nodes; }

  std::unique_ptr<ForkCluster> nodes, null_nodes;
};

struct RunSpec {
  uint32_t batch = 1;
  uint32_t context_tokens = 0;
  uint32_t window_tokens = 0;
  uint32_t block_tokens = 64;
  uint32_t num_nodes = 0;  // 0: all
  bool null_nodes = false;
  bool all_resident = false;
  DType stored_dtype = DType::kBf16;
};

struct RunResult {
  double step_us = 0;
  double idle_share = 0;
  double fill_s = 0;
  SequenceSummary summary;
};

class StepBench {
 public:
  static absl::StatusOr<std::unique_ptr<StepBench>> Make(const Flags& flags, std::unique_ptr<Clusters> clusters) {
    auto bench = std::unique_ptr<StepBench>(new StepBench(flags, std::move(clusters)));
    TRIBUTARY_ASSIGN_OR_RETURN(bench->weights_, MakeDummyWeights(flags.config, 1));
    const ModelConfig& config = bench->config();
    DeviceLimits limits;
    limits.max_batch = *std::max_element(flags.batches.begin(), flags.batches.end());
    limits.max_partial_slots = static_cast<uint32_t>(flags.nodes);
    limits.resident_pool_bytes = flags.pool_bytes;
    limits.max_prefill_tokens = std::max(FilledDevice::kFillTokens, flags.prefill_tokens);
    TRIBUTARY_ASSIGN_OR_RETURN(std::unique_ptr<Device> device, flags.device == "host"
                                                                   ? MakeHostDevice(bench->weights_, limits, 1)
                                                                   : MakeCudaDevice(bench->weights_, limits, {}));
    bench->device_ = std::make_unique<FilledDevice>(std::move(device), config, 7);
    bench->recorder_ = std::make_unique<Recorder>(bench->device_.get());
    TRIBUTARY_ASSIGN_OR_RETURN(bench->plane_, MakeUcxDataPlane({}));
    EngineOptions options;
    options.model = {.shape = config.attention,
                     .num_layers = config.num_layers,
                     .vocab_size = config.vocab_size,
                     .max_partial_slots = limits.max_partial_slots};
    options.softmax_scale = static_cast<float>(config.softmax_scale);
    options.idle.spin_ns = int64_t{flags.spin_us} * kNsPerUs;
    TRIBUTARY_ASSIGN_OR_RETURN(
        bench->engine_, DecodeEngine::Create(options, bench->device_.get(), bench->plane_.get(), bench->clusters_.get(),
                                             &bench->clock_, bench->recorder_.get()));
    return bench;
  }

  absl::Status Run(const std::string& part) {
    if (part == "resident") return Resident();
    if (part == "facet") return Facet();
    if (part == "exchange") return Exchange();
    if (part == "remote") return Remote();
    if (part == "prefill") return Prefill();
    if (part == "longest") return Longest();
    return absl::InvalidArgumentError(
        fmt::format("unknown part '{}'; there are resident, facet, exchange, remote, prefill, longest", part));
  }
  std::vector<GpuBenchRow>& rows() { return rows_; }

 private:
  StepBench(const Flags& flags, std::unique_ptr<Clusters> clusters) : flags_(flags), clusters_(std::move(clusters)) {}
  const ModelConfig& config() const { return weights_->config; }
  bool on_gpu() const { return flags_.device == "cuda"; }

  double WeightBytes() const;
  ResidentSteps StepsOf(uint32_t batch, uint32_t context) const {
    return {.batch = batch,
            .context_tokens = context,
            .num_layers = config().num_layers,
            .num_kv_heads = config().attention.num_kv_heads,
            .steps = flags_.steps};
  }
  absl::Status Resident();
  absl::Status Facet();
  absl::StatusOr<SequencePlan> MakePlan(const RunSpec& spec, uint64_t id);
  absl::StatusOr<RunResult> RunEngine(const RunSpec& spec);
  absl::Status Exchange();
  absl::Status Remote();
  absl::Status RemoteStep(DType stored_dtype, double copy_gb_per_s);
  absl::Status Prefill();
  absl::Status Longest();
  void AddStages(const char* of, const RunResult& run) {
    for (const StageTime& stage : run.summary.stages) {
      Add({.name = fmt::format("stage {} of {}, all layers", stage.stage, of),
           .value = stage.seconds * 1e3,
           .unit = "ms"});
    }
  }
  void Add(GpuBenchRow row) {
    fmt::print(stderr, "{}: {:.6g} {}\n", row.name, row.value, row.unit);
    rows_.push_back(std::move(row));
  }

  const Flags flags_;
  const RealClock clock_;
  std::unique_ptr<Clusters> clusters_;
  std::shared_ptr<const ModelWeights> weights_;
  std::unique_ptr<UcxDataPlane> plane_;
  std::unique_ptr<FilledDevice> device_;  // pins and unpins the plane's frame memory
  std::unique_ptr<Recorder> recorder_;
  std::unique_ptr<DecodeEngine> engine_;
  uint64_t next_sequence_ = 1;
  uint64_t next_step_ = 1;
  std::vector<GpuBenchRow> rows_;
};

// What a step reads: all but the embedding table, of which it takes a row.
double StepBench::WeightBytes() const {
  uint64_t elements = weights_->num_parameters();
  if (weights_->lm_head != weights_->embedding) elements -= weights_->embedding->num_elements();
  return static_cast<double>(elements) * 2;
}

absl::Status StepBench::Resident() {
  const double read_gb_per_s = on_gpu() ? MeasureDeviceReadGbPerS() : MeasureReadBandwidthGbPerS(1);
  Add({.name = "device memory, plain read", .value = read_gb_per_s, .unit = "GB/s"});
  for (const uint32_t context : flags_.contexts) {
    for (const uint32_t batch : flags_.batches) {
      TRIBUTARY_ASSIGN_OR_RETURN(const ResidentTimes times, RunResidentSteps(StepsOf(batch, context), device_.get()));
      const double us = times.step_us;
      const double bytes = WeightBytes() + static_cast<double>(batch) * context *
                                               static_cast<double>(device_->KvBytesPerToken(DType::kBf16));
      const double floor_us = bytes / read_gb_per_s * 1e-3;
      Add({.name = fmt::format("step, all resident, {} tokens, batch {}", context, batch),
           .value = us * 1e-3,
           .unit = "ms",
           .ceiling = floor_us * 1e-3,
           .ceiling_name = "ms (bytes / read rate)",
           .ratio = floor_us / us,
           .bar = "<= 1.2x",
           .ok = us <= 1.2 * floor_us});
    }
  }
  return absl::OkStatus();
}

absl::Status StepBench::Facet() {
  for (const uint32_t context : flags_.contexts) {
    for (const uint32_t batch : flags_.batches) {
      ResidentSteps spec = StepsOf(batch, context);
      TRIBUTARY_ASSIGN_OR_RETURN(const ResidentTimes without, RunResidentSteps(spec, device_.get()));
      TRIBUTARY_ASSIGN_OR_RETURN(spec.policy, ResolvePolicy({.name = "hgca", .parameters = {}}, {}));
      TRIBUTARY_ASSIGN_OR_RETURN(const ResidentTimes with, RunResidentSteps(spec, device_.get()));
      const std::string name = fmt::format("HGCA's facet, {} tokens, batch {}", context, batch);
      Add({.name = name + ": added to a step", .value = 100 * (with.step_us / without.step_us - 1), .unit = "%"});
      Add({.name = name + ": first step", .value = with.first_step_us * 1e-3, .unit = "ms"});
      Add({.name = name + ": 256 tokens leave", .value = with.leave_us, .unit = "us"});
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SequencePlan> StepBench::MakePlan(const RunSpec& spec, uint64_t id) {
  SequencePlan plan;
  plan.sequence_id = SequenceId(id);
  plan.epoch = Epoch(1);
  plan.prompt_tokens.assign(spec.context_tokens, 1);
  plan.max_tokens = flags_.steps + 1;
  plan.layout = {64, spec.window_tokens, spec.block_tokens, spec.all_resident};
  plan.kv_dtype = DType::kBf16;
  if (spec.all_resident) return plan;
  // Cut by heads where they can be dealt evenly: each node then takes a part of q, and gives a part of the partial.
  const uint32_t num_nodes = spec.num_nodes > 0 ? spec.num_nodes : static_cast<uint32_t>(flags_.nodes);
  const uint32_t num_kv_heads = config().attention.num_kv_heads;
  const bool by_heads = num_kv_heads % num_nodes == 0;
  const uint32_t node_heads = by_heads ? num_kv_heads / num_nodes : num_kv_heads;
  const uint32_t num_stripes = by_heads ? 1 : num_nodes;
  const uint64_t stripe_tokens = by_heads ? 1 << 30 : 256;
  const uint64_t tokens = plan.max_context_tokens();
  for (uint32_t node = 0; node < num_nodes; ++node) {
    ShardSpec shard;
    shard.shard_id = ShardId(id * 100 + node);
    shard.sequence_id = plan.sequence_id;
    shard.epoch = plan.epoch;
    shard.model = config().attention;
    shard.num_layers = shard.layer_end = config().num_layers;
    shard.kv_head_begin = by_heads ? node * node_heads : 0;
    shard.kv_head_end = shard.kv_head_begin + node_heads;
    shard.stripe = {64, stripe_tokens, num_stripes, by_heads ? 0 : node};
    shard.capacity_tokens = by_heads ? tokens : tokens / num_nodes + 2 * stripe_tokens;
    shard.k_dtype = shard.v_dtype = spec.stored_dtype;
    TRIBUTARY_ASSIGN_OR_RETURN(ShardPlacement route,
                               clusters_->Of(spec.null_nodes).OpenShard(static_cast<int>(node), shard));
    plan.shards.push_back(route);
  }
  return plan;
}

absl::StatusOr<RunResult> StepBench::RunEngine(const RunSpec& spec) {
  recorder_->Reset();
  StepCommand step;
  std::vector<ShardPlacement> routes;
  const int64_t begin_ns = clock_.NowNs();
  for (uint32_t i = 0; i < spec.batch; ++i) {
    TRIBUTARY_ASSIGN_OR_RETURN(SequencePlan plan, MakePlan(spec, next_sequence_++));
    step.sequence_ids.push_back(plan.sequence_id);
    routes.insert(routes.end(), plan.shards.begin(), plan.shards.end());
    engine_->Start(std::move(plan));
  }
  while (recorder_->num_started < spec.batch && recorder_->failure.ok()) {
    if (!engine_->RunOnce()) plane_->WaitForEvent(kNsPerMs);
  }
  TRIBUTARY_RETURN_IF_ERROR(recorder_->failure);
  RunResult result;
  result.fill_s = SecondsFromNs(clock_.NowNs() - begin_ns);
  for (uint32_t i = 0; recorder_->num_ended < spec.batch && i <= 2 * flags_.steps; ++i) {
    step.step_id = StepId(next_step_++);
    engine_->Step(step);
    engine_->RunOnce();
  }
  TRIBUTARY_RETURN_IF_ERROR(recorder_->failure);
  for (const ShardPlacement& route : routes) {
    const auto node = static_cast<int>(route.spec.shard_id.value % 100);
    TRIBUTARY_RETURN_IF_ERROR(clusters_->Of(spec.null_nodes).CloseShard(node, route.spec.shard_id));
  }
  result.step_us = MedianOf(recorder_->step_us);
  if (!recorder_->idle_shares.empty()) result.idle_share = MedianOf(recorder_->idle_shares);
  result.summary = recorder_->last;
  return result;
}

absl::Status StepBench::Exchange() {
  const double layers = config().num_layers;
  ResidentSteps steps = StepsOf(1, 4096);
  TRIBUTARY_ASSIGN_OR_RETURN(const ResidentTimes plain, RunResidentSteps(steps, device_.get()));
  steps.exchange_slots = static_cast<uint32_t>(flags_.nodes);
  TRIBUTARY_ASSIGN_OR_RETURN(const ResidentTimes doorbell, RunResidentSteps(steps, device_.get()));
  Add({.name = "exchange of a layer: doorbells and merge, batch 1",
       .value = (doorbell.step_us - plain.step_us) / layers,
       .unit = "us"});
  // So few remote tokens that a node attends to them on the spot.
  constexpr uint32_t kBlock = 16;
  const uint32_t context = 64 + flags_.window_tokens + 2 * kBlock;
  RunSpec spec{
      .context_tokens = context, .window_tokens = flags_.window_tokens, .block_tokens = kBlock, .all_resident = true};
  TRIBUTARY_ASSIGN_OR_RETURN(const RunResult without, RunEngine(spec));
  spec.all_resident = false;
  for (const bool null_nodes : {true, false}) {
    for (const uint32_t num_nodes : {1u, static_cast<uint32_t>(flags_.nodes)}) {
      spec.num_nodes = num_nodes;
      spec.null_nodes = null_nodes;
      TRIBUTARY_ASSIGN_OR_RETURN(const RunResult with, RunEngine(spec));
      const double overhead_us = (with.step_us - without.step_us) / layers;
      const std::string name =
          fmt::format("exchange of a layer, {} {}", num_nodes, null_nodes ? "null nodes" : "nodes with few tokens");
      Add({.name = name, .value = overhead_us, .unit = "us"});
      if (null_nodes) {
        rows_.back().bar = "<= 15 us";
        rows_.back().ok = overhead_us <= 15;
      }
      AddStages(name.c_str(), with);
    }
    if (null_nodes) clusters_->null_nodes.reset();
  }
  return absl::OkStatus();
}

// A step of one sequence whose KV lies on the nodes, as rows.
absl::Status StepBench::Remote() {
  const double copy_gb_per_s = on_gpu() ? MeasureHostToDeviceGbPerS() : 0;
  TRIBUTARY_RETURN_IF_ERROR(RemoteStep(DType::kBf16, copy_gb_per_s));
  return RemoteStep(DType::kInt8, copy_gb_per_s);
}

absl::Status StepBench::RemoteStep(DType stored_dtype, double copy_gb_per_s) {
  // Before and after the step: the memory of a shared host is now faster, now slower.
  const auto num_cores = static_cast<int>(std::thread::hardware_concurrency());
  const double gb_per_s_before = MeasureReadBandwidthGbPerS(num_cores);
  TRIBUTARY_ASSIGN_OR_RETURN(const RunResult run, RunEngine({.context_tokens = flags_.remote_context,
                                                             .window_tokens = flags_.window_tokens,
                                                             .stored_dtype = stored_dtype}));
  const double gb_per_s_after = MeasureReadBandwidthGbPerS(num_cores);
  const double cpu_gb_per_s = (gb_per_s_before + gb_per_s_after) / 2;
  Add({.name = fmt::format("host memory, plain read, {} threads ({:.1f} before the step, {:.1f} after)", num_cores,
                           gb_per_s_before, gb_per_s_after),
       .value = cpu_gb_per_s,
       .unit = "GB/s"});
  const auto tokens = static_cast<double>(run.summary.remote_tokens);
  const auto storage = static_cast<KvStorage>(stored_dtype);
  const KvTileLayout tile = MakeKvTileLayout(storage, storage, config().attention.head_dim);
  const double bytes =
      tokens * config().num_layers * config().attention.num_kv_heads * tile.record_bytes / kKvTileTokens;
  const std::string dtype(DTypeName(stored_dtype));
  const std::string name = fmt::format("{} tokens, window {}", flags_.remote_context, flags_.window_tokens);
  const double floor_us = bytes / cpu_gb_per_s * 1e-3;
  Add({.name = fmt::format("step, {}, {} on {} nodes", name, dtype, flags_.nodes),
       .value = run.step_us * 1e-3,
       .unit = "ms",
       .ceiling = floor_us * 1e-3,
       .ceiling_name = "ms (KV bytes / CPU read rate)",
       .ratio = floor_us / run.step_us});
  if (stored_dtype == DType::kBf16) {
    rows_.back().bar = "<= 1.15x";
    rows_.back().ok = run.step_us <= 1.15 * floor_us;
  }
  Add({.name = "GPU idle share of that step", .value = 100 * run.idle_share, .unit = "%"});
  const double sent_bytes = tokens * static_cast<double>(device_->KvBytesPerToken(DType::kBf16));
  Add({.name = fmt::format("{:.1f} GB of bf16 to the nodes, stored as {}", sent_bytes * 1e-9, dtype),
       .value = sent_bytes * 1e-9 / run.fill_s,
       .unit = "GB/s"});
  AddStages("that step", run);
  if (copy_gb_per_s == 0) return absl::OkStatus();
  // What a GPU without nodes would do: copy the KV of its own dtype in every step.
  const double copy_us = sent_bytes / copy_gb_per_s * 1e-3;
  Add({.name = fmt::format("its KV as bf16 over PCIe in every step ({:.1f} GB/s)", copy_gb_per_s),
       .value = copy_us * 1e-3,
       .unit = "ms",
       .bar = fmt::format(">= 2x our step; it is {:.2f}x", copy_us / run.step_us),
       .ok = copy_us >= 2 * run.step_us});
  return absl::OkStatus();
}

absl::Status StepBench::Prefill() {
  device_->ComputePrompts(true);
  const absl::StatusOr<RunResult> run =
      RunEngine({.context_tokens = flags_.prefill_tokens, .window_tokens = flags_.window_tokens});
  device_->ComputePrompts(false);
  TRIBUTARY_RETURN_IF_ERROR(run.status());
  // Two operations per weight and token (the lm_head's once); 4 per query, key and dimension, half of them visible.
  const double tokens = flags_.prefill_tokens;
  const double layer_weights = WeightBytes() / 2 - static_cast<double>(weights_->lm_head->num_elements());
  const double attention = 2.0 * config().num_layers * config().attention.num_q_heads * config().attention.head_dim;
  const double operations = 2 * layer_weights * tokens + attention * tokens * tokens;
  Add({.name = fmt::format("prefill of {} tokens, KV to {} nodes", flags_.prefill_tokens, flags_.nodes),
       .value = tokens / run->fill_s,
       .unit = "tokens/s"});
  Add({.name = "arithmetic of that prefill", .value = operations / run->fill_s * 1e-12, .unit = "TFLOP/s"});
  return absl::OkStatus();
}

absl::Status StepBench::Longest() {
  TRIBUTARY_ASSIGN_OR_RETURN(const DType dtype, ParseKvDType(flags_.longest_dtype));
  TRIBUTARY_ASSIGN_OR_RETURN(const RunResult run, RunEngine({.context_tokens = flags_.longest_context,
                                                             .window_tokens = flags_.window_tokens,
                                                             .stored_dtype = dtype}));
  Add({.name =
           fmt::format("step, {} tokens, {} on {} nodes", flags_.longest_context, flags_.longest_dtype, flags_.nodes),
       .value = run.step_us * 1e-3,
       .unit = "ms",
       .ok = true});
  Add({.name = "filling that context", .value = run.fill_s, .unit = "s"});
  return absl::OkStatus();
}

absl::Status RunAll(const Flags& flags) {
  ForkClusterOptions options;
  options.num_nodes = flags.nodes;
  options.threads_per_node = flags.node_threads > 0
                                 ? flags.node_threads
                                 : std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / flags.nodes);
  options.kv_pool_bytes = flags.node_pool_bytes;
  options.idle.spin_ns = int64_t{flags.spin_us} * kNsPerUs;
  auto clusters = std::make_unique<Clusters>();
  TRIBUTARY_ASSIGN_OR_RETURN(clusters->nodes, ForkCluster::Create(options));
  options.null_nodes = true;
  TRIBUTARY_ASSIGN_OR_RETURN(clusters->null_nodes, ForkCluster::Create(options));
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<StepBench> bench, StepBench::Make(flags, std::move(clusters)));
  absl::Status status;
  for (const std::string& part : flags.parts) {
    const absl::Status result = bench->Run(part);
    if (result.ok()) continue;
    fmt::print(stderr, "gpu_step_bench: {}: {}\n", part, std::string(result.message()));
    status.Update(result);
    bench->rows().push_back({.name = "gpu_step_bench " + part, .unit = "failed", .ok = false});
  }
  PrintRows(bench->rows(), flags.json);
  return status;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Decode steps of a real geometry on one GPU, with KV there and on CPU nodes");
  app.add_option("--config", flags.config, "Folder with config.json")->capture_default_str();
  app.add_option("--device", flags.device, "cuda, or host: to try the benchmark itself")
      ->check(CLI::IsMember({"cuda", "host"}))
      ->capture_default_str();
  app.add_option("--part", flags.parts, "resident, facet, exchange, remote, prefill, longest")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--batch", flags.batches, "Batches of `resident`")->delimiter(',')->capture_default_str();
  app.add_option("--context", flags.contexts, "Contexts of `resident`")->delimiter(',')->capture_default_str();
  app.add_option("--steps", flags.steps, "Steps to time")->capture_default_str();
  app.add_option("--window-tokens", flags.window_tokens, "Resident window")->capture_default_str();
  app.add_option("--remote-context", flags.remote_context, "Context of `remote`")->capture_default_str();
  app.add_option("--prefill-tokens", flags.prefill_tokens, "Prompt of `prefill`")->capture_default_str();
  app.add_option("--longest-context", flags.longest_context, "Context of `longest`")->capture_default_str();
  app.add_option("--longest-dtype", flags.longest_dtype, "What `longest` is stored in")->capture_default_str();
  app.add_option("--resident-pool-bytes", flags.pool_bytes, "Of the GPU")->transform(CLI::AsSizeValue(false));
  app.add_option("--kv-pool-bytes", flags.node_pool_bytes, "Of each node")->transform(CLI::AsSizeValue(false));
  app.add_option("--nodes", flags.nodes, "CPU nodes, processes of this host")->capture_default_str();
  app.add_option("--node-threads", flags.node_threads, "Threads of each; 0: cores / nodes")->capture_default_str();
  app.add_option("--spin-us", flags.spin_us, "How long nodes and worker spin before they sleep")->capture_default_str();
  app.add_flag("--json", flags.json, "One line for tools/gpu_check");
  CLI11_PARSE(app, argc, argv);
  if (!InitLogging("gpu_step_bench", "warn").ok()) return 1;
  const absl::Status status = RunAll(flags);
  if (status.ok()) return 0;
  fmt::print(stderr, "gpu_step_bench: {}\n", std::string(status.message()));
  return 1;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }
