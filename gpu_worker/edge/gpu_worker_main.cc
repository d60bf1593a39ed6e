// tributary-gpu-worker: puts a GPU worker together and runs it until SIGTERM or SIGINT.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/random_id.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "base/version.h"
#include "fmt/format.h"
#include "gpu_worker/device/cuda/cuda_device.h"
#include "gpu_worker/device/host/host_device.h"
#include "gpu_worker/edge/gpu_worker_flags.h"
#include "gpu_worker/edge/node_connect_client.h"
#include "gpu_worker/edge/worker_service.h"
#include "gpu_worker/engine/decode_engine.h"
#include "gpu_worker/engine/engine_loop.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "gpu_worker/step/decode_step.h"
#include "model/dummy_weights.h"
#include "model/weights.h"
#include "process/server_process.h"
#include "telemetry/step_trace.h"
#include "transport/ucx/ucx_data_plane.h"

namespace tributary {
namespace {

constexpr int64_t kConnectTimeoutNs = 5 * kNsPerS;
constexpr size_t kTraceSpans = 1 << 18;

absl::StatusOr<std::unique_ptr<Device>> MakeDevice(const GpuWorkerFlags& flags,
                                                   std::shared_ptr<const ModelWeights> weights) {
  DeviceLimits limits;
  limits.max_batch = flags.max_batch;
  limits.max_partial_slots = flags.max_token_stripes;
  limits.resident_pool_bytes = flags.resident_pool_bytes;
  limits.max_prefill_tokens = flags.max_prefill_tokens;
  TRIBUTARY_ASSIGN_OR_RETURN(const WeightDType weight_dtype, ParseWeightDType(flags.weight_dtype));
  if (flags.device.starts_with("cuda")) {
    if (weight_dtype != WeightDType::kStored) {
      return absl::InvalidArgumentError(
          fmt::format("--weight-dtype {} with --device {}: a GPU keeps weights as --compute-dtype says; leave "
                      "--weight-dtype out, or use --device host",
                      flags.weight_dtype, flags.device));
    }
    CudaDeviceOptions options;
    TRIBUTARY_ASSIGN_OR_RETURN(options.ordinal, ParseCudaOrdinal(flags.device));
    if (flags.compute_dtype != "model") {
      TRIBUTARY_ASSIGN_OR_RETURN(options.compute_dtype, ParseDType(flags.compute_dtype));
    }
    options.deterministic = flags.deterministic;
    return MakeCudaDevice(std::move(weights), limits, options);
  }
  if (flags.device != "host") {
    return absl::InvalidArgumentError(fmt::format("unknown --device '{}'; use host, cuda or cuda:N", flags.device));
  }
  const int threads = flags.threads > 0 ? flags.threads : std::max(1, static_cast<int>(AllowedCpus().size()));
  return MakeHostDevice(std::move(weights), limits, threads, weight_dtype);
}

EngineOptions MakeEngineOptions(const GpuWorkerFlags& flags, const ModelConfig& config) {
  EngineOptions options;
  options.model.shape = config.attention;
  options.model.num_layers = config.num_layers;
  options.model.windowed_layers = config.windowed_layers();
  if (!options.model.windowed_layers.empty()) {
    options.model.sliding_window_tokens = config.layers[options.model.windowed_layers[0]].sliding_window_tokens;
  }
  options.model.vocab_size = config.vocab_size;
  options.model.max_context_tokens = config.max_context_tokens();
  options.idle.spin_ns = int64_t{flags.data_plane.spin_us} * kNsPerUs;
  options.softmax_scale = static_cast<float>(config.softmax_scale);
  options.soft_cap = static_cast<float>(config.attention_soft_cap);
  options.step_timeout_ns = int64_t{flags.step_timeout_ms} * kNsPerMs;
  options.nodes.max_silence_ns = int64_t{flags.node_silence_timeout_ms} * kNsPerMs;
  options.nodes.min_silence_ns = std::min(options.nodes.min_silence_ns, options.nodes.max_silence_ns);
  options.nodes.heartbeat_interval_ns = std::min(options.nodes.heartbeat_interval_ns, options.nodes.max_silence_ns / 4);
  return options;
}

NodeDescription DescribeWorker(const GpuWorkerFlags& flags, const ModelConfig& config, uint64_t incarnation,
                               const std::string& address, const std::string& metrics_address) {
  // "models/probe" and "models/probe/" are one model.
  std::filesystem::path folder = std::filesystem::path(flags.model).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  NodeDescription node;
  node.node_id = flags.node_id;
  node.incarnation = incarnation;
  node.role = NodeRole::kGpuWorker;
  node.control_address = address;
  node.metrics_address = metrics_address;
  node.version = std::string(VersionText());
  node.protocol_version = kProtocolVersion;
  node.kv_capacity_bytes = flags.resident_pool_bytes;
  node.geometry = {config.attention, config.num_layers, config.vocab_size, folder.filename().string()};
  for (const LayerSpec& layer : config.layers) {
    if (layer.sliding_window_tokens == 0) continue;
    ++node.geometry.num_windowed_layers;
    node.geometry.sliding_window_tokens = layer.sliding_window_tokens;
  }
  node.max_context_tokens = config.max_context_tokens();
  node.max_batch = flags.max_batch;
  node.max_prompt_tokens = flags.max_prefill_tokens;
  node.max_token_stripes = flags.max_token_stripes;
  return node;
}

// Waits until nothing runs, at most for the drain timeout.
void Drain(ServerProcess& process, WorkerService& service, const EngineLoop& loop) {
  service.SetDraining();
  if (process.Drain([&] { return loop.idle(); })) return;
  LOG_WARN("{} sequences still ran after {} s of draining; they are ended now", loop.num_sequences(),
           process.flags().drain_timeout_s);
}

absl::Status RunWorker(const GpuWorkerFlags& flags, ServerProcess& process) {
  RealClock clock;
  EngineMetrics metrics(process.registry());
  UcxOptions ucx;
  ucx.tls = flags.data_plane.transport_tls;
  ucx.net_devices = flags.data_plane.transport_net_devices;
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<DataPlane> data_plane, MakeUcxDataPlane(ucx));
  // After UCX, which takes all handlers of SIGBUS away (model/mapped_file.h needs its own).
  TRIBUTARY_ASSIGN_OR_RETURN(
      const std::shared_ptr<const ModelWeights> weights,
      flags.load_format == "dummy" ? MakeDummyWeights(flags.model, flags.dummy_seed) : LoadModelWeights(flags.model));
  // After the data plane, whose frame memory it pins and unpins.
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, MakeDevice(flags, weights));
  process.SetBuildInfo(data_plane->info().release);
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> health,
                             RpcServer::Start(process.flags().listen, {}, process.security()->ServerOptions()));
  TRIBUTARY_RETURN_IF_ERROR(process.StartMetrics());

  const uint64_t incarnation = RandomId();
  WorkerServiceOptions options;
  options.coordinator = flags.coordinator;
  options.hello = DescribeWorker(flags, weights->config, incarnation, health->address(), process.metrics_address());
  options.eos_tokens = weights->config.eos_token_ids;
  options.rpc = process.security()->ChannelOptions(PeerRole::kCoordinator);
  WorkerService service(options, [&](const absl::Status& status) { process.Refuse(status); });

  NodeConnectClient connector(flags.node_id, incarnation, flags.data_plane.mac, kConnectTimeoutNs,
                              process.security()->ChannelOptions(PeerRole::kNode));
  StepTrace trace = flags.trace_file.empty() ? StepTrace() : StepTrace(kTraceSpans);
  trace.NameLane(0, "worker");
  trace.NameLane(kDeviceLane, "GPU");
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<DecodeEngine> engine,
                             DecodeEngine::Create(MakeEngineOptions(flags, weights->config), device.get(),
                                                  data_plane.get(), &connector, &clock, &service, &metrics, &trace));
  TRIBUTARY_RETURN_IF_ERROR(process.PublishAddress(*health, health->address()));
  // From here on nothing fails: the loop must outlive the service's thread, so both are stopped below, in order.
  EngineLoop loop(engine.get(), device.get(), data_plane.get(), &clock,
                  [&](const absl::Status& status) { process.Refuse(status); });
  loop.Start();
  service.Start(&loop);
  process.SetServing(
      *health, fmt::format("worker {} serves model '{}' on device '{}', health on {}, transports '{}'", flags.node_id,
                           flags.model, flags.device, health->address(), data_plane->info().transports));
  process.WaitForStop();
  if (process.refusal().ok()) Drain(process, service, loop);
  service.Stop();
  loop.Stop();
  if (!flags.trace_file.empty()) {
    TRIBUTARY_RETURN_IF_ERROR(trace.WriteChromeTrace(flags.trace_file, flags.node_id));
  }
  return process.refusal();
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) {
  tributary::GpuWorkerFlags flags;
  return tributary::RunServerProgram(
      argc, argv,
      {"tributary-gpu-worker", "tributary-gpu-worker",
       "A GPU worker: owns the model and the resident KV; runs prefill and decode steps.",
       tributary::PeerRole::kWorker},
      [&](CLI::App& app) { tributary::AddGpuWorkerFlags(app, &flags); },
      [&](tributary::ServerProcess& process) { return tributary::RunWorker(flags, process); });
}
