#include "gpu_worker/engine/decode_engine.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/status.h"
#include "fmt/format.h"
#include "gpu_worker/engine/prefill_queue.h"
#include "gpu_worker/engine/sequence_admission.h"
#include "gpu_worker/engine/sequence_summary.h"
#include "gpu_worker/engine/sequence_table.h"
#include "gpu_worker/engine/spill_pump.h"
#include "gpu_worker/engine/stall_watch.h"
#include "gpu_worker/engine/step_account.h"
#include "gpu_worker/engine/step_runner.h"
#include "gpu_worker/engine/token_taker.h"
#include "gpu_worker/engine/turn_appender.h"
#include "gpu_worker/engine/turn_closer.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "gpu_worker/step/decode_step.h"

namespace tributary {
namespace {

absl::Status Check(const EngineOptions& options) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(options.model.shape));
  if (options.model.num_layers == 0 || options.model.num_layers > limits::kMaxLayers) {
    return absl::InvalidArgumentError(
        fmt::format("num_layers is {}, must be in [1, {}]", options.model.num_layers, limits::kMaxLayers));
  }
  if (!(options.softmax_scale > 0)) {
    return absl::InvalidArgumentError(fmt::format("softmax_scale is {}, must be positive", options.softmax_scale));
  }
  const bool is_cap = options.soft_cap >= limits::kMinSoftCap && options.soft_cap <= limits::kMaxSoftCap;
  if (options.soft_cap != 0 && !is_cap) {
    return absl::InvalidArgumentError(fmt::format("soft_cap is {}, must be 0 or in [{}, {}]", options.soft_cap,
                                                  limits::kMinSoftCap, limits::kMaxSoftCap));
  }
  // Twice: a spill frame may be cut no smaller than one token.
  if (options.spill_frame_bytes > limits::kMaxFramePayloadBytes / 2) {
    return absl::InvalidArgumentError(fmt::format("spill_frame_bytes is {}, must be at most {}",
                                                  options.spill_frame_bytes, limits::kMaxFramePayloadBytes / 2));
  }
  if (options.append_chunk_tokens == 0) {
    return absl::InvalidArgumentError("append_chunk_tokens is 0, must be at least 1");
  }
  return absl::OkStatus();
}

// What the device's limits leave of what was asked for.
EngineOptions Complete(const EngineOptions& options, const DeviceLimits& limits) {
  EngineOptions complete = options;
  complete.model.has_soft_cap = options.soft_cap != 0;
  complete.append_chunk_tokens = std::min(options.append_chunk_tokens, limits.max_batch);
  complete.model.max_partial_slots = limits.max_partial_slots;
  return complete;
}

}  // namespace

// The parts of the engine, each with its responsibility, and the order in which they work. What the nodes say goes to
// the parts that asked.
struct DecodeEngine::Impl final : NodeListener {
  Impl(const EngineOptions& engine_options, Device* dev, DataPlane* plane, NodeConnector* connector, const Clock* clk,
       EngineEvents* listener, EngineMetrics* handles, StepTrace* trace)
      : options(Complete(engine_options, dev->limits())),
        device(dev),
        data_plane(plane),
        clock(clk),
        events(listener),
        metrics(handles),
        nodes(options.nodes, plane, connector, clk, this, handles),
        sender({options.spill_window_bytes, options.spill_timeout_ns}, dev, plane, &nodes, handles),
        step({options.model.shape, options.model.num_layers, options.model.windowed_layers, options.softmax_scale,
              options.soft_cap, options.idle},
             dev, plane, &nodes, clk, handles, trace),
        admission(options.model, dev, &nodes, clk),
        tokens(options.model.vocab_size, dev, options.logits_observer),
        prefills(options, dev, &nodes, &sender, &tokens, clk, listener, handles),
        spills(options, dev, plane, &nodes, clk, &sequences, &sender),
        appender(options, &sequences, &nodes, &sender, &spills, &tokens, clk, listener, handles),
        account(options.model, handles),
        runner(options, {.device = dev,
                         .step = &step,
                         .sequences = &sequences,
                         .nodes = &nodes,
                         .sender = &sender,
                         .spills = &spills,
                         .appender = &appender,
                         .tokens = &tokens,
                         .account = &account,
                         .clock = clk,
                         .events = listener}),
        stalls(options, {.nodes = &nodes,
                         .sequences = &sequences,
                         .sender = &sender,
                         .spills = &spills,
                         .events = listener,
                         .metrics = handles}),
        closer(&sequences, &prefills, dev, &sender, &nodes, listener, handles) {
    device->PinHostMemory(plane->send_memory());  // spills are copied into frames
  }
  ~Impl() {
    while (!sequences.empty()) closer.Discard(sequences.front());
  }

  void Start(SequencePlan plan);
  void Continue(ContinuePlan plan);
  void Step(const StepCommand& command);
  void Stop(SequenceId id, Epoch epoch);
  void StopAll();
  bool RunOnce();
  bool BeginDecoding();
  void UpdateGauges();

  void OnPartial(NodeIdx node, const FrameHeader& header, const PartialFrameView& partial) override;
  void OnAck(NodeIdx node, const FrameHeader& header, const AckBody& ack) override;
  void OnRejected(NodeIdx node, const ErrorBody& error, std::string_view text) override;
  void OnDamaged(NodeIdx node, const FrameHeader& header) override;
  void OnNodeSilent(NodeIdx node, const absl::Status& status) override { step.OnNodeSilent(node, status); }
  void OnNodeFailed(NodeIdx node, const absl::Status& status) override;

  const EngineOptions options;
  Device* const device;
  DataPlane* const data_plane;
  const Clock* const clock;
  EngineEvents* const events;
  EngineMetrics* const metrics;  // may be null
  RemoteNodes nodes;
  SpillSender sender;
  DecodeStep step;
  SequenceTable sequences;
  SequenceAdmission admission;
  TokenTaker tokens;
  PrefillQueue prefills;
  SpillPump spills;
  TurnAppender appender;
  StepAccount account;
  StepRunner runner;
  StallWatch stalls;
  TurnCloser closer;
};

// ---- the public face ----

DecodeEngine::DecodeEngine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DecodeEngine::~DecodeEngine() = default;

absl::StatusOr<std::unique_ptr<DecodeEngine>> DecodeEngine::Create(const EngineOptions& options, Device* device,
                                                                   DataPlane* data_plane, NodeConnector* connector,
                                                                   const Clock* clock, EngineEvents* events,
                                                                   EngineMetrics* metrics, StepTrace* trace) {
  TRIBUTARY_RETURN_IF_ERROR(Check(options));
  return std::unique_ptr<DecodeEngine>(
      new DecodeEngine(std::make_unique<Impl>(options, device, data_plane, connector, clock, events, metrics, trace)));
}

void DecodeEngine::Start(SequencePlan plan) { impl_->Start(std::move(plan)); }
void DecodeEngine::Continue(ContinuePlan plan) { impl_->Continue(std::move(plan)); }
void DecodeEngine::Step(const StepCommand& command) { impl_->Step(command); }
void DecodeEngine::Stop(SequenceId sequence, Epoch epoch) { impl_->Stop(sequence, epoch); }
void DecodeEngine::StopAll() { impl_->StopAll(); }
bool DecodeEngine::RunOnce() { return impl_->RunOnce(); }
uint32_t DecodeEngine::num_sequences() const { return static_cast<uint32_t>(impl_->sequences.size()); }

// ---- commands ----

void DecodeEngine::Impl::Start(SequencePlan plan) {
  const SequenceId id = plan.sequence_id;
  if (Sequence* present = sequences.Find(id)) {
    if (present->plan.epoch >= plan.epoch) {
      LOG_WARN("sequence {} is here already at epoch {}; its start at epoch {} is ignored", id.value,
               present->plan.epoch.value, plan.epoch.value);
      return;
    }
    closer.Discard(*present);  // replaced by a later placement
  }
  const SequenceSummary empty = EmptySummary(plan);
  std::string blamed;
  absl::StatusOr<std::unique_ptr<Sequence>> sequence = admission.Admit(std::move(plan), &blamed);
  if (sequence.ok()) {
    prefills.Push(&sequences.Add(*std::move(sequence)));
  } else {
    closer.Refuse(id, sequence.status(), blamed, empty);
  }
  closer.CloseDone();  // pairing anew fails the sequences that used a node's earlier incarnation
}

void DecodeEngine::Impl::Continue(ContinuePlan plan) {
  const SequenceId id = plan.sequence_id;
  Sequence* sequence = sequences.Find(id);
  if (sequence == nullptr || sequence->plan.epoch != plan.epoch) {
    const absl::Status unknown =
        absl::NotFoundError(fmt::format("sequence {} at epoch {} is not kept here", id.value, plan.epoch.value));
    events->OnEnded(id, unknown, "", {});
    return;
  }
  if (!sequence->failure.ok()) return;  // it is about to end
  if (const absl::Status status = appender.Begin(*sequence, std::move(plan.turn)); !status.ok()) {
    closer.End(*sequence, status, kNoNode);
    return;
  }
  spills.BeginDue();  // a full window may have waited for this turn
}

void DecodeEngine::Impl::Step(const StepCommand& command) {
  const int64_t begin_ns = clock->NowNs();
  nodes.Poll();
  spills.LoseOverdue();
  BeginDecoding();
  runner.Step(command, begin_ns);
  stalls.Update();
  closer.CloseDone();
  UpdateGauges();
}

void DecodeEngine::Impl::Stop(SequenceId id, Epoch epoch) {
  Sequence* sequence = sequences.Find(id);
  if (sequence == nullptr || (epoch.value != 0 && sequence->plan.epoch > epoch)) return;
  closer.End(*sequence, absl::CancelledError(fmt::format("sequence {} was stopped", id.value)), kNoNode);
}

void DecodeEngine::Impl::StopAll() {
  while (!sequences.empty()) Stop(sequences.front().id(), Epoch{});
}

bool DecodeEngine::Impl::RunOnce() {
  bool worked = nodes.Poll() > 0;
  spills.LoseOverdue();
  worked |= spills.Pump();
  worked |= BeginDecoding();
  stalls.Update();
  closer.CloseDone();
  worked |= prefills.Run();
  worked |= runner.RunAppends();
  closer.CloseDone();
  UpdateGauges();
  return worked;
}

bool DecodeEngine::Impl::BeginDecoding() {
  if (!prefills.BeginDecoding(sequences)) return false;
  spills.BeginDue();
  return true;
}

void DecodeEngine::Impl::UpdateGauges() {
  if (metrics == nullptr) return;
  metrics->sequences.Set(static_cast<double>(sequences.size()));
  metrics->kept_sequences.Set(
      static_cast<double>(sequences.Count([](const Sequence& sequence) { return sequence.is(SequenceState::kKept); })));
  const DeviceMemory memory = device->memory();
  metrics->resident_capacity.Set(static_cast<double>(memory.resident_pool_bytes));
  metrics->resident_used.Set(static_cast<double>(memory.resident_used_bytes));
  metrics->SetPolicyBytes(memory.policy_bytes);
  metrics->spill_queue_blocks.Set(static_cast<double>(spills.num_blocks()));
  metrics->transport.AdvanceTo(data_plane->counters());
}

// ---- what nodes say ----

void DecodeEngine::Impl::OnPartial(NodeIdx node, const FrameHeader& header, const PartialFrameView& partial) {
  step.OnPartial(node, header, partial);
}

void DecodeEngine::Impl::OnAck(NodeIdx node, const FrameHeader& header, const AckBody& ack) {
  spills.OnAck(node, header, ack);
}

void DecodeEngine::Impl::OnRejected(NodeIdx node, const ErrorBody& error, std::string_view text) {
  LOG_WARN("CPU attention node '{}' rejected a frame: {} ({})", nodes.node_id(node),
           FrameErrorName(static_cast<FrameError>(error.error)), text);
  spills.OnRejected(node, error, text);
  step.OnRejected(node, error, text);
}

void DecodeEngine::Impl::OnDamaged(NodeIdx node, const FrameHeader& header) {
  LOG_WARN("an answer of CPU attention node '{}' was damaged on the way: frame {} of type {}", nodes.node_id(node),
           header.frame_seq, header.type);
  spills.OnDamaged(node, header);
  step.OnDamaged(node, header);
}

void DecodeEngine::Impl::OnNodeFailed(NodeIdx node, const absl::Status& status) {
  sequences.ForEach([&](Sequence& sequence) {
    if (sequence.UsesNode(node)) spills.LoseHolder(sequence, node, status);
  });
  step.OnNodeFailed(node, status);
}

}  // namespace tributary
