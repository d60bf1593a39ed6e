#include "tests/sim/sim_cluster.h"

#include <algorithm>

#include "base/check.h"
#include "fmt/format.h"

namespace tributary {

// ---- the cluster ----

SimCluster::SimCluster(const SimOptions& options)
    : options_(options),
      clock_(options.threaded || options.make_plane ? static_cast<const Clock*>(&real_clock_) : &manual_clock_),
      network_(options.seed, clock_) {
  network_.SetFaults(options.faults);
  nodes_.resize(options.num_nodes);
  for (uint32_t i = 0; i < options.num_nodes; ++i) {
    nodes_[i].id = fmt::format("cpu-{}", i);
    StartNode(nodes_[i]);
  }
  StartWorker();
}

void SimCluster::StartWorker() {
  const SimOptions& options = options_;
  engine_.reset();
  plane_.reset();
  const DeviceLimits limits{.max_batch = options.max_batch,
                            .max_partial_slots = 4,
                            .resident_pool_bytes = options.resident_pool_bytes,
                            .max_prefill_tokens = options.max_prefill_tokens};
  device_ = options.make_device ? options.make_device(limits) : std::make_unique<TinyDevice>(options.model, limits);
  ++worker_.incarnation;
  const std::string address = worker_.incarnation == 1 ? "worker" : fmt::format("worker/{}", worker_.incarnation);
  plane_ = std::make_unique<SimPlane>(MakePlane(address));
  if (!options.threaded) plane_->wait = [this](int64_t timeout_ns) { Wait(timeout_ns); };

  EngineOptions engine;
  engine.model = {.shape = options.model.shape,
                  .num_layers = options.model.num_layers,
                  .windowed_layers = options.windowed_layers,
                  .sliding_window_tokens = options.sliding_window_tokens,
                  .vocab_size = options.model.vocab_size};
  engine.softmax_scale = options.softmax_scale == 0 ? options.model.softmax_scale() : options.softmax_scale;
  engine.soft_cap = options.soft_cap;
  engine.spill_window_bytes = options.spill_window_bytes;
  engine.spill_frame_bytes = options.spill_frame_bytes;
  engine.spill_timeout_ns = 4 * kNsPerS;
  engine.max_stall_ns = 3 * kNsPerS;
  engine.append_chunk_tokens = options.append_chunk_tokens;
  if (!options.threaded) engine.idle.spin_ns = 0;
  const auto observer = [this](SequenceId id, uint64_t index, std::span<const float> logits) {
    auto& seen = results_.at(id).logits;
    TRIBUTARY_CHECK_EQ(seen.size(), index);
    seen.emplace_back(logits.begin(), logits.end());
  };
  if (options.observe_logits) engine.logits_observer = observer;
  auto created = DecodeEngine::Create(engine, device_.get(), plane_.get(), this, clock_, this, &metrics_);
  TRIBUTARY_CHECK(created.ok());
  engine_ = *std::move(created);
}

SimCluster::~SimCluster() {
  for (Node& node : nodes_) StopThread(node);
  engine_.reset();
}

std::unique_ptr<DataPlane> SimCluster::MakePlane(const std::string& address) {
  if (options_.make_plane) return options_.make_plane();
  return network_.Create(address, {.max_frames_in_flight = options_.max_frames_in_flight});
}

void SimCluster::StopThread(Node& node) {
  if (!node.thread.joinable()) return;
  node.stopping = true;
  node.plane->Wake();
  node.thread.join();
  node.stopping = false;
}

void SimCluster::StartNode(Node& node) {
  StopThread(node);
  node.server.reset();
  node.plane.reset();
  ++node.incarnation;
  node.alive = true;
  node.frozen = false;
  node.address = fmt::format("{}/{}", node.id, node.incarnation);
  node.plane = MakePlane(node.address);
  AttentionServerOptions server{.node_id = node.id, .incarnation = node.incarnation};
  server.data_plane_mac = options_.data_plane_mac;
  server.arena.bytes = options_.node_pool_bytes;
  server.extent_bytes = options_.extent_bytes;
  auto created = AttentionServer::Create(server, node.plane.get(), clock_, &node.metrics);
  TRIBUTARY_CHECK(created.ok());
  node.server = *std::move(created);
  if (!options_.threaded) return;
  node.thread = std::thread([&node] {
    while (!node.stopping) {
      int events = 0;
      {
        std::lock_guard lock(node.mutex);
        events = node.server->Poll();
      }
      if (events == 0) node.plane->WaitForEvent(kNsPerMs);
    }
  });
}

SequenceId SimCluster::Submit(const SimRequest& request) {
  const SequenceId id(++last_sequence_);
  results_[id];
  records_[id] = {
      .request = request,
      .past_turns = {},
      .max_context_tokens = std::max<uint64_t>(request.max_context_tokens, request.prompt.size() + request.max_tokens),
      .epoch = Epoch(++last_epoch_)};
  std::vector<Node*> nodes;
  for (Node& node : nodes_) nodes.push_back(&node);
  if (!request.layout.all_resident) shards_[id] = OpenShards(id, nodes);
  engine_->Start(PlanOf(id));
  return id;
}

SequencePlan SimCluster::PlanOf(SequenceId id) const {
  const Record& record = records_.at(id);
  const SimRequest& request = record.request;
  SequencePlan plan;
  plan.sequence_id = id;
  plan.epoch = record.epoch;
  plan.prompt_tokens = request.prompt;
  plan.max_tokens = request.max_tokens;
  plan.sampling = request.sampling;
  plan.layout = request.layout;
  plan.kv_dtype = request.kv_dtype;
  plan.forced_tokens = request.forced_tokens;
  plan.stop_tokens = request.stop_tokens;
  plan.top_logprobs = request.top_logprobs;
  plan.keep = request.keep;
  plan.reserved_context_tokens = record.max_context_tokens;
  plan.policy = request.policy;
  plan.report_attention_heads = request.report_attention_heads;
  plan.max_stall_ns =
      options_.threaded ? 120 * kNsPerS : request.max_stall_ns;  // a loaded machine must not fail a test
  if (const auto shards = shards_.find(id); shards != shards_.end()) plan.shards = shards->second;
  plan.past_turns = record.past_turns;
  plan.answer_tokens = results_.at(id).tokens;
  return plan;
}

void SimCluster::Continue(SequenceId id, const SimTurn& turn) {
  TRIBUTARY_CHECK(results_.at(id).kept);
  Record& record = records_.at(id);
  record.past_turns.push_back({record.request.prompt, results_.at(id).tokens});
  record.request.prompt = turn.prompt;
  record.request.max_tokens = turn.max_tokens;
  record.request.sampling = turn.sampling;
  record.request.forced_tokens = turn.forced_tokens;
  record.request.stop_tokens = turn.stop_tokens;
  record.request.top_logprobs = 0;
  record.request.keep = turn.keep;
  results_[id] = {};
  engine_->Continue({.sequence_id = id,
                     .epoch = record.epoch,
                     .turn = {.prompt_tokens = turn.prompt,
                              .max_tokens = turn.max_tokens,
                              .sampling = turn.sampling,
                              .stop_tokens = turn.stop_tokens,
                              .forced_tokens = turn.forced_tokens,
                              .keep = turn.keep}});
}

void SimCluster::Rebuild(SequenceId id) {
  SimResult& result = results_.at(id);
  TRIBUTARY_CHECK(result.ended);
  result.ended = false;
  result.status = absl::OkStatus();
  result.failed_node.clear();
  result.stalled_on.clear();
  result.logits.resize(result.tokens.size());  // of a token that never came
  ++result.num_rebuilds;
  records_.at(id).epoch = Epoch(++last_epoch_);
  std::vector<Node*> nodes;
  for (Node& node : nodes_) {
    if (node.alive) nodes.push_back(&node);
  }
  TRIBUTARY_CHECK(!nodes.empty());
  if (shards_.contains(id)) shards_[id] = OpenShards(id, nodes);
  engine_->Start(PlanOf(id));
}

void SimCluster::RebuildFailed() {
  for (const auto& [id, result] : results_) {
    if (result.ended && !result.failed_node.empty()) Rebuild(id);
  }
}

void SimCluster::RestartWorker() {
  for (auto& [id, result] : results_) {
    if (result.ended) continue;
    result.ended = true;
    result.kept = false;
    result.status = absl::UnavailableError("the worker is gone");
    result.failed_node = worker_.id;
    CloseShards(id);
  }
  StartWorker();
}

std::vector<ShardPlacement> SimCluster::OpenShards(SequenceId id, const std::vector<Node*>& nodes) {
  const Record& record = records_.at(id);
  const SimRequest& request = record.request;
  const SimCut& cut = request.cut;
  const TinyModel& model = options_.model;
  const auto num_layers = model.num_layers - static_cast<uint32_t>(options_.windowed_layers.size());
  std::vector<ShardPlacement> shards;
  if (num_layers == 0) return shards;
  const uint64_t max_context = record.max_context_tokens;
  for (uint32_t stripe = 0; stripe < cut.num_stripes; ++stripe) {
    for (uint32_t part = 0; part < cut.head_parts; ++part) {
      for (uint32_t slice = 0; slice < cut.layer_parts; ++slice) {
        ShardSpec spec;
        spec.shard_id = ShardId(++last_shard_);
        spec.sequence_id = id;
        spec.epoch = record.epoch;
        spec.model = model.shape;
        spec.num_layers = num_layers;
        spec.layer_begin = num_layers * slice / cut.layer_parts;
        spec.layer_end = num_layers * (slice + 1) / cut.layer_parts;
        spec.kv_head_begin = model.shape.num_kv_heads * part / cut.head_parts;
        spec.kv_head_end = model.shape.num_kv_heads * (part + 1) / cut.head_parts;
        spec.stripe = {.origin = request.layout.sink_tokens,
                       .stripe_tokens = cut.stripe_blocks * request.layout.block_tokens,
                       .num_stripes = cut.num_stripes,
                       .stripe_idx = stripe};
        spec.capacity_tokens =
            std::max<uint64_t>(1, spec.stripe.LocalIndex(std::max<uint64_t>(max_context, request.layout.sink_tokens)));
        const auto or_kv_dtype = [&](DType dtype) { return dtype == DType::kUnset ? request.kv_dtype : dtype; };
        spec.k_dtype = or_kv_dtype(request.remote_k_dtype);
        spec.v_dtype = or_kv_dtype(request.remote_v_dtype);
        spec.policy = request.policy;
        ShardPlacement& placement = shards.emplace_back(ShardPlacement{spec, {}});
        for (uint32_t holder = 0; holder < options_.num_holders; ++holder) {
          Node& node = *nodes[(shards.size() - 1 + holder) % nodes.size()];
          OpenShard(spec, node);
          placement.holders.push_back({node.id, node.incarnation, "sim"});
        }
      }
    }
  }
  return shards;
}

void SimCluster::OpenShard(const ShardSpec& spec, Node& node) {
  if (!node.alive) return;
  std::lock_guard lock(node.mutex);
  const auto reserved = node.server->OpenShard(spec, worker_);
  if (!reserved.ok()) std::fprintf(stderr, "OpenShard: %s\n", reserved.status().ToString().c_str());
  TRIBUTARY_CHECK(reserved.ok());
}

void SimCluster::CloseShards(SequenceId id) {
  for (const ShardPlacement& placement : shards_[id]) {
    for (Node& node : nodes_) {
      const NodeEndpoint* holder = placement.FindHolder(node.id);
      if (holder == nullptr || !node.alive || node.incarnation != holder->incarnation) continue;
      std::lock_guard lock(node.mutex);
      TRIBUTARY_CHECK(node.server->CloseShard(placement.spec.shard_id, placement.spec.epoch).ok());
    }
  }
}

void SimCluster::Turn() {
  StepCommand step{.step_id = StepId(++last_step_), .timeout_ns = step_timeout_ns, .sequence_ids = {}};
  for (const auto& [id, result] : results_) {
    if (!result.ended && !result.kept && !result.tokens.empty()) step.sequence_ids.push_back(id);
  }
  if (!step.sequence_ids.empty()) engine_->Step(step);
  if (!engine_->RunOnce()) plane_->WaitForEvent(kNsPerMs);
}

bool SimCluster::RunUntilEnded() {
  for (int turn = 0; turn < 200'000; ++turn) {
    const bool done =
        std::all_of(results_.begin(), results_.end(), [](const auto& r) { return r.second.ended || r.second.kept; });
    if (done) return true;
    Turn();
  }
  return false;
}

int SimCluster::PollNodes() {
  int events = 0;
  for (Node& node : nodes_) {
    if (node.alive && !node.frozen) events += node.server->Poll();
  }
  return events;
}

void SimCluster::Wait(int64_t timeout_ns) {
  ++num_waits_;
  if (on_wait) on_wait(num_waits_);
  if (PollNodes() > 0 || options_.make_plane) {
    manual_clock_.AdvanceNs(kNsPerUs);
    return;
  }
  const auto next_ns = network_.NextDeliveryNs();
  const int64_t until_next_ns = next_ns ? *next_ns - clock_->NowNs() : timeout_ns;
  manual_clock_.AdvanceNs(std::clamp<int64_t>(until_next_ns, 1, std::max<int64_t>(timeout_ns, 1)));
  PollNodes();
}

void SimCluster::Kill(uint32_t node) {
  if (!nodes_[node].alive) return;
  nodes_[node].alive = false;
  network_.Kill(nodes_[node].address);
}
void SimCluster::Freeze(uint32_t node) {
  nodes_[node].frozen = true;
  network_.Freeze(nodes_[node].address);
}
void SimCluster::Thaw(uint32_t node) {
  nodes_[node].frozen = false;
  network_.Thaw(nodes_[node].address);
}
void SimCluster::Restart(uint32_t node) {
  Kill(node);
  StartNode(nodes_[node]);
}
void SimCluster::Cut(uint32_t node) { network_.Cut("worker", nodes_[node].address); }

std::string SimCluster::Leftovers() {
  std::string left;
  if (engine_->num_sequences() != 0) left += fmt::format("{} sequences; ", engine_->num_sequences());
  if (device_->memory().resident_used_bytes != 0) {
    left += fmt::format("{} resident bytes; ", device_->memory().resident_used_bytes);
  }
  const auto* tiny = dynamic_cast<const TinyDevice*>(device_.get());
  if (tiny != nullptr && tiny->num_prefills() != 0) left += "a prefill; ";
  for (Node& node : nodes_) {
    if (!node.alive) continue;
    std::lock_guard lock(node.mutex);
    const uint64_t used = node.server->capacity_bytes() - node.server->free_bytes();
    if (used != 0) left += fmt::format("{} bytes on {}; ", used, node.id);
  }
  return left;
}

uint64_t SimCluster::num_refused(FrameError reason) const {
  const auto i = static_cast<size_t>(reason);
  double refused = metrics_.frames_rejected[i].value();
  for (const Node& node : nodes_) refused += node.metrics.frames_rejected[i].value();
  return static_cast<uint64_t>(refused);
}

// ---- what the engine says ----

void SimCluster::OnPrefillProgress(SequenceId sequence, uint32_t layers_done, uint32_t num_layers, double fraction) {
  TRIBUTARY_CHECK(!results_.at(sequence).ended);
  TRIBUTARY_CHECK_LE(layers_done, num_layers);
  TRIBUTARY_CHECK(fraction >= 0 && fraction <= 1);
}
void SimCluster::OnTokens(const SequenceTokens& tokens) {
  SimResult& result = results_.at(tokens.sequence_id);
  TRIBUTARY_CHECK((result.tokens.empty() || result.num_rebuilds > 0) && !result.ended);
  result.tokens.insert(result.tokens.end(), tokens.tokens.begin(), tokens.tokens.end());
  result.logprobs.insert(result.logprobs.end(), tokens.logprobs.begin(), tokens.logprobs.end());
  result.top.insert(result.top.end(), tokens.top.begin(), tokens.top.end());
}
void SimCluster::OnStepDone(StepId step, std::span<const SequenceTokens> tokens, double step_s) {
  TRIBUTARY_CHECK_EQ(step, StepId(last_step_));
  TRIBUTARY_CHECK_GE(step_s, 0.0);
  for (const SequenceTokens& chunk : tokens) {
    SimResult& result = results_.at(chunk.sequence_id);
    TRIBUTARY_CHECK(!result.ended && chunk.tokens.size() == 1);
    result.tokens.push_back(chunk.tokens.front());
    result.logprobs.push_back(chunk.logprobs.front());
    result.top.insert(result.top.end(), chunk.top.begin(), chunk.top.end());
  }
}
void SimCluster::OnEnded(SequenceId sequence, const absl::Status& status, const std::string& failed_node_id,
                         const SequenceSummary& summary) {
  SimResult& result = results_.at(sequence);
  TRIBUTARY_CHECK(!result.ended);
  result.ended = true;
  result.kept = false;
  result.status = status;
  result.failed_node = failed_node_id;
  result.summary = summary;
  CloseShards(sequence);
}
void SimCluster::OnStalled(SequenceId sequence, const std::string& node_id) {
  SimResult& result = results_.at(sequence);
  TRIBUTARY_CHECK(!result.ended && result.stalled_on.empty());
  result.stalled_on = node_id;
  ++result.num_stalls;
}
void SimCluster::OnResumed(SequenceId sequence) {
  SimResult& result = results_.at(sequence);
  TRIBUTARY_CHECK(!result.ended && !result.stalled_on.empty());
  result.stalled_on.clear();
}
void SimCluster::OnKept(SequenceId sequence, const SequenceSummary& summary) {
  SimResult& result = results_.at(sequence);
  TRIBUTARY_CHECK(!result.ended && !result.kept);
  result.kept = true;
  result.summary = summary;
}

absl::StatusOr<NodeSession> SimCluster::Connect(const NodeEndpoint& endpoint, const TransportInfo& local) {
  for (Node& node : nodes_) {
    if (node.id != endpoint.node_id) continue;
    if (!node.alive) return absl::UnavailableError("connection refused");
    if (node.frozen) return absl::DeadlineExceededError("no answer within 1 s");
    std::lock_guard lock(node.mutex);
    const auto grant = node.server->OpenSession(worker_, local.address);
    if (!grant.ok()) return grant.status();
    return NodeSession{node.plane->info(), grant->session_id, grant->keys, grant->epoch, node.id};
  }
  return absl::NotFoundError("no such node");
}

}  // namespace tributary
