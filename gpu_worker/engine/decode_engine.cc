#include "gpu_worker/engine/decode_engine.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/status.h"
#include "fmt/format.h"
#include "gpu_worker/engine/decode_engine_impl.h"

namespace tributary {
namespace {

constexpr int64_t kProgressIntervalNs = 250 * kNsPerMs;
constexpr int64_t kHousekeepingIntervalNs = 100 * kNsPerMs;

// With the node's name in front, unless the message has it already.
absl::Status NameNode(const absl::Status& status, const std::string& node_id) {
  const std::string message(status.message());
  if (node_id.empty() || message.find("'" + node_id + "'") != std::string::npos) return status;
  return absl::Status(status.code(), fmt::format("CPU attention node '{}': {}", node_id, message));
}

}  // namespace

// ---- the public face ----

DecodeEngine::DecodeEngine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DecodeEngine::~DecodeEngine() {
  while (!impl_->sequences.empty()) {
    impl_->End(impl_->sequences.begin()->first, absl::CancelledError(), kNoNode, /*report=*/false);
  }
}

absl::StatusOr<std::unique_ptr<DecodeEngine>> DecodeEngine::Create(const EngineOptions& options, Device* device,
                                                                   DataPlane* data_plane, NodeConnector* connector,
                                                                   const Clock* clock, EngineEvents* events,
                                                                   EngineMetrics* metrics, StepTrace* trace) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(options.model.shape));
  if (options.model.num_layers == 0 || options.model.num_layers > limits::kMaxLayers) {
    return absl::InvalidArgumentError(
        fmt::format("num_layers is {}, must be in [1, {}]", options.model.num_layers, limits::kMaxLayers));
  }
  if (!(options.softmax_scale > 0)) {
    return absl::InvalidArgumentError(fmt::format("softmax_scale is {}, must be positive", options.softmax_scale));
  }
  // Twice: a spill frame may be cut no smaller than one token.
  if (options.spill_frame_bytes > limits::kMaxFramePayloadBytes / 2) {
    return absl::InvalidArgumentError(fmt::format("spill_frame_bytes is {}, must be at most {}",
                                                  options.spill_frame_bytes, limits::kMaxFramePayloadBytes / 2));
  }
  if (options.append_chunk_tokens == 0) {
    return absl::InvalidArgumentError("append_chunk_tokens is 0, must be at least 1");
  }
  EngineOptions complete = options;
  complete.append_chunk_tokens = std::min(options.append_chunk_tokens, device->limits().max_batch);
  complete.model.max_partial_slots = device->limits().max_partial_slots;
  return std::unique_ptr<DecodeEngine>(
      new DecodeEngine(std::make_unique<Impl>(complete, device, data_plane, connector, clock, events, metrics, trace)));
}

void DecodeEngine::Start(SequencePlan plan) { impl_->Start(std::move(plan)); }
void DecodeEngine::Continue(ContinuePlan plan) { impl_->Continue(std::move(plan)); }
void DecodeEngine::Step(const StepCommand& command) { impl_->Step(command); }
void DecodeEngine::Stop(SequenceId sequence, Epoch epoch) { impl_->Stop(sequence, epoch); }
void DecodeEngine::StopAll() { impl_->StopAll(); }
bool DecodeEngine::RunOnce() { return impl_->RunOnce(); }
uint32_t DecodeEngine::num_sequences() const { return static_cast<uint32_t>(impl_->sequences.size()); }

// ---- a sequence's life ----

DecodeEngine::Impl::Impl(const EngineOptions& engine_options, Device* dev, DataPlane* plane, NodeConnector* connector,
                         const Clock* clk, EngineEvents* listener, EngineMetrics* handles, StepTrace* trace)
    : options(engine_options),
      device(dev),
      data_plane(plane),
      clock(clk),
      events(listener),
      metrics(handles),
      nodes(options.nodes, plane, connector, clk, this, handles),
      spill({options.spill_window_bytes, options.spill_timeout_ns}, dev, plane, &nodes, handles),
      step({options.model.shape, options.model.num_layers, options.softmax_scale, options.idle}, dev, plane, &nodes,
           clk, handles, trace) {
  device->PinHostMemory(plane->send_memory());  // spills are copied into frames
}

void DecodeEngine::Impl::Start(SequencePlan plan) {
  const SequenceId id = plan.sequence_id;
  if (const auto it = sequences.find(id); it != sequences.end()) {
    if (it->second->plan.epoch >= plan.epoch) {
      LOG_WARN("sequence {} is here already at epoch {}; its start at epoch {} is ignored", id.value,
               it->second->plan.epoch.value, plan.epoch.value);
      return;
    }
    End(id, absl::AbortedError("replaced by a later placement"), kNoNode, /*report=*/false);
  }
  const SequenceSummary empty{.prompt_tokens = static_cast<uint32_t>(plan.prompt_tokens.size()),
                              .policy = std::string(PolicyName(plan.policy.kind))};
  std::string blamed;
  absl::StatusOr<std::unique_ptr<Sequence>> sequence = Admit(std::move(plan), &blamed);
  if (sequence.ok()) {
    prefill_queue.push_back(id);
    sequences.emplace(id, *std::move(sequence));
  } else {
    CountFailure(sequence.status());
    events->OnEnded(id, NameNode(sequence.status(), blamed), blamed, empty);
  }
  EndDone();  // pairing anew fails the sequences that used a node's earlier incarnation
}

absl::StatusOr<std::unique_ptr<Sequence>> DecodeEngine::Impl::Admit(SequencePlan plan, std::string* blamed) {
  TRIBUTARY_RETURN_IF_ERROR(device->status());
  TRIBUTARY_RETURN_IF_ERROR(Validate(plan, options.model));
  if (plan.prompt_tokens.size() > device->limits().max_prefill_tokens) {
    return absl::InvalidArgumentError(
        fmt::format("sequence {}: the prompt has {} tokens, this worker prefills at most {}", plan.sequence_id.value,
                    plan.prompt_tokens.size(), device->limits().max_prefill_tokens));
  }
  auto sequence = std::make_unique<Sequence>();
  const uint64_t max_context_tokens = plan.max_context_tokens();
  const bool never_remote = plan.layout.RemoteEnd(max_context_tokens) == plan.layout.sink_tokens;
  if (plan.routes.empty() || plan.layout.all_resident || never_remote) {
    plan.layout.all_resident = true;
    plan.routes.clear();
  }
  for (const SequenceRoute& route : plan.routes) {
    const absl::StatusOr<NodeIdx> node = nodes.Acquire(route.node);
    if (!node.ok()) {
      *blamed = route.node.node_id;
      return node.status();
    }
    sequence->shards.push_back({route.shard, *node, plan.kv_dtype});
  }
  sequence->cache = WindowCache(plan.layout, max_context_tokens);
  const uint32_t capacity_tokens = sequence->cache.capacity_tokens();
  const std::unique_ptr<const AttentionPolicy> policy = MakePolicy(plan.policy);
  const bool is_sparse = policy->is_sparse() && !sequence->shards.empty();
  TRIBUTARY_ASSIGN_OR_RETURN(sequence->resident, device->ReserveResident({.capacity_tokens = capacity_tokens,
                                                                          .kv_dtype = plan.kv_dtype,
                                                                          .policy = is_sparse ? &plan.policy : nullptr,
                                                                          .max_context_tokens = max_context_tokens}));
  sequence->facet = device->facet(sequence->resident);
  if (is_sparse) {
    sequence->quality = std::make_unique<AttentionQuality>(plan.policy, options.model.shape, options.model.num_layers);
  }
  sequence->cache.Prefilled(plan.prompt_tokens.size());
  sequence->started_ns = clock->NowNs();
  sequence->plan = std::move(plan);
  return sequence;
}

void DecodeEngine::Impl::Stop(SequenceId id, Epoch epoch) {
  const auto it = sequences.find(id);
  if (it == sequences.end() || (epoch.value != 0 && it->second->plan.epoch > epoch)) return;
  End(id, absl::CancelledError(fmt::format("sequence {} was stopped", id.value)), kNoNode,
      /*report=*/true);
}

void DecodeEngine::Impl::StopAll() {
  while (!sequences.empty()) Stop(sequences.begin()->first, Epoch{});
}

bool DecodeEngine::Impl::RunOnce() {
  bool worked = nodes.Poll() > 0;
  FailOverdue();
  worked |= PumpSpills();
  worked |= FinishDraining();
  EndDone();
  worked |= RunPrefill();
  worked |= RunAppends();
  EndDone();
  UpdateGauges();
  return worked;
}

bool DecodeEngine::Impl::RunPrefill() {
  if (prefill_queue.empty()) return false;
  const SequenceId id = prefill_queue.front();
  Sequence& sequence = *sequences.at(id);
  if (prefill == nullptr) {
    sequence.state = SequenceState::kPrefilling;
    const PrefillInput input{.prompt = sequence.plan.prompt_tokens,
                             .kv_dtype = sequence.plan.kv_dtype,
                             .resident = sequence.resident,
                             .cache = &sequence.cache,
                             .shards = sequence.shards,
                             .num_layers = options.model.num_layers,
                             .num_kv_heads = options.model.shape.num_kv_heads,
                             .head_dim = options.model.shape.head_dim,
                             .spill_frame_bytes = options.spill_frame_bytes};
    prefill = std::make_unique<PrefillJob>(input, device, &spill);
    progress_layers = 0;
    progress_ns = clock->NowNs();
  }
  const absl::StatusOr<PrefillJob::Progress> progress = prefill->RunUnit();
  if (!progress.ok()) {
    sequence.Fail(progress.status(), kNoNode);
    return true;
  }
  if (*progress == PrefillJob::Progress::kDone) {
    // The token waits for the acknowledgements, and the device is free for the next prompt
    // meanwhile.
    TakeToken(sequence, prefill->logits());
    prefill.reset();
    prefill_queue.pop_front();
    sequence.state = SequenceState::kDraining;
    events->OnPrefillProgress(id, options.model.num_layers, options.model.num_layers, 1.0);
    return true;
  }
  ReportProgress(id);
  return *progress == PrefillJob::Progress::kWorked;
}

void DecodeEngine::Impl::ReportProgress(SequenceId id) {
  const int64_t now_ns = clock->NowNs();
  if (prefill->layers_done() == progress_layers && now_ns - progress_ns < kProgressIntervalNs) return;
  progress_layers = prefill->layers_done();
  progress_ns = now_ns;
  events->OnPrefillProgress(id, progress_layers, options.model.num_layers, prefill->fraction());
}

bool DecodeEngine::Impl::FinishDraining() {
  bool worked = false;
  for (auto& [id, sequence] : sequences) {
    if (sequence->state != SequenceState::kDraining || !sequence->failure.ok() || spill.in_flight(id) != 0) continue;
    sequence->state = SequenceState::kDecoding;
    sequence->first_token_ns = sequence->last_token_ns = clock->NowNs();
    if (metrics != nullptr) {
      metrics->prefill_duration.Observe(SecondsFromNs(sequence->first_token_ns - sequence->started_ns));
    }
    events->OnTokens(LatestToken(*sequence));
    worked = true;
  }
  if (worked) BeginSpills();
  return worked;
}

void DecodeEngine::Impl::FailOverdue() {
  if (nodes.patient_now_ns() - housekeeping_ns < kHousekeepingIntervalNs) return;
  housekeeping_ns = nodes.patient_now_ns();
  for (const SpillFailure& failure : spill.FindOverdue()) FailFrom(failure);
}

void DecodeEngine::Impl::FailFrom(const SpillFailure& failure) {
  const auto it = sequences.find(failure.sequence);
  if (it != sequences.end()) it->second->Fail(failure.status, failure.node);
}

void DecodeEngine::Impl::EndDone() {
  if (const absl::Status status = device->status(); !status.ok()) {
    for (auto& [id, sequence] : sequences) sequence->Fail(status, kNoNode);
  }
  for (auto it = sequences.begin(); it != sequences.end();) {
    Sequence& sequence = *it->second;
    const SequenceId id = it->first;
    ++it;
    const bool complete = sequence.state == SequenceState::kDecoding && sequence.FinishReason()[0] != '\0';
    if (complete && !sequence.plan.keep) {
      End(id, absl::OkStatus(), kNoNode, /*report=*/true);
    } else if (!sequence.failure.ok()) {
      End(id, absl::Status(sequence.failure), sequence.failed_node, /*report=*/true);
    } else if (complete) {
      Keep(sequence);
    }
  }
}

void DecodeEngine::Impl::End(SequenceId id, const absl::Status& status, NodeIdx node, bool report) {
  const auto it = sequences.find(id);
  TRIBUTARY_CHECK(it != sequences.end());
  if (!prefill_queue.empty() && prefill_queue.front() == id) prefill.reset();
  std::erase(prefill_queue, id);
  Sequence& sequence = *it->second;
  TakeTraffic(sequence);
  spill.Drop(id);
  device->ReleaseResident(sequence.resident);
  const std::unique_ptr<Sequence> ended = std::move(it->second);
  sequences.erase(it);
  if (!report) return;
  if (!status.ok()) ended->Fail(status, node);
  if (!status.ok()) CountFailure(status);
  const std::string node_id = node == kNoNode ? "" : nodes.node_id(node);
  events->OnEnded(id, NameNode(status, node_id), node_id, MakeSummary(*ended, nodes));
}

void DecodeEngine::Impl::TakeTraffic(Sequence& sequence) {
  const SpillSender::Traffic traffic = spill.TakeTraffic(sequence.id());
  sequence.bytes_sent += traffic.sent;
  sequence.bytes_received += traffic.received;
}

void DecodeEngine::Impl::CountFailure(const absl::Status& status) {
  // Not raw_code(): a status may have come over the wire with a code that nobody knows.
  if (metrics != nullptr) metrics->sequences_failed[static_cast<size_t>(status.code())].Increment();
}

void DecodeEngine::Impl::UpdateGauges() {
  if (metrics == nullptr) return;
  metrics->sequences.Set(static_cast<double>(sequences.size()));
  const auto kept = std::count_if(sequences.begin(), sequences.end(),
                                  [](const auto& entry) { return entry.second->state == SequenceState::kKept; });
  metrics->kept_sequences.Set(static_cast<double>(kept));
  const DeviceMemory memory = device->memory();
  metrics->resident_capacity.Set(static_cast<double>(memory.resident_pool_bytes));
  metrics->resident_used.Set(static_cast<double>(memory.resident_used_bytes));
  const auto spilling = std::count_if(sequences.begin(), sequences.end(),
                                      [](const auto& entry) { return entry.second->spill.has_value(); });
  metrics->spill_queue_blocks.Set(static_cast<double>(spilling));
  metrics->transport.AdvanceTo(data_plane->counters());
}

// ---- what nodes say ----

void DecodeEngine::Impl::OnPartial(NodeIdx node, const FrameHeader& header, const PartialFrameView& partial) {
  step.OnPartial(node, header, partial);
}

void DecodeEngine::Impl::OnAck(NodeIdx node, const FrameHeader& header, const AckBody& ack) {
  if (auto failure = spill.OnAck(node, header.layer, ack)) FailFrom(*failure);
}

void DecodeEngine::Impl::OnRejected(NodeIdx node, const ErrorBody& error, std::string_view text) {
  LOG_WARN("CPU attention node '{}' rejected a frame: {} ({})", nodes.node_id(node),
           FrameErrorName(static_cast<FrameError>(error.error)), text);
  if (auto failure = spill.OnRejected(node, error)) FailFrom(*failure);
  step.OnRejected(node, error);
}

void DecodeEngine::Impl::OnNodeFailed(NodeIdx node, const absl::Status& status) {
  for (auto& [id, sequence] : sequences) {
    if (sequence->UsesNode(node)) sequence->Fail(status, node);
  }
  step.OnNodeFailed(node, status);
}

}  // namespace tributary
