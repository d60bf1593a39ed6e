#include "gpu_worker/step/decode_step.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/limits.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// How often a step that waits looks whether its nodes are there.
constexpr int64_t kAwaitIntervalNs = 5 * kNsPerMs;
// If more time than this is between two polls, we stood still.
constexpr int64_t kLongestLookNs = 500 * kNsPerMs;
// A row may hold up its batch for so long at most: a device that runs ahead gives a layer up after a minute.
constexpr int64_t kLongestWaitInStepNs = 45 * kNsPerS;

}  // namespace

DecodeStep::DecodeStep(const DecodeStepOptions& options, Device* device, DataPlane* data_plane, RemoteNodes* nodes,
                       const Clock* clock, EngineMetrics* metrics, StepTrace* trace)
    : options_(options),
      layers_(options.num_layers, options.windowed_layers),
      device_(device),
      data_plane_(data_plane),
      nodes_(nodes),
      clock_(clock),
      metrics_(metrics),
      trace_(trace),
      gather_(options.shape) {}

std::span<const float> DecodeStep::Run(std::span<StepRow> rows, int64_t timeout_ns) {
  rows_ = rows;
  ++exchange_id_;
  stage_times_ = {};
  timeout_ns_ = timeout_ns;
  mark_ns_ = clock_->NowNs();
  begin_ns_ = mark_ns_;
  deadline_ns_ = mark_ns_ + timeout_ns;
  device_rows_.clear();
  for (StepRow& row : rows) {
    const bool asks = !row.remote.empty() && !row.shards.empty();
    row.measured = row.quality != nullptr && asks && row.quality->BeginStep();
    device_rows_.push_back(row.device);
    device_rows_.back().may_have_partials = asks;
    device_rows_.back().wants_resident_partial = row.measured;
  }
  measured_rows_.clear();

  device_->BeginStep(device_rows_);
  for (uint32_t layer = 0; layer < options_.num_layers; ++layer) RunLayer(layer);
  const std::span<const float> logits = device_->EndStep();
  TakeMeasurements();
  Mark(Stage::kMergeMlp, -1);
  const absl::Status status = device_->step_status();
  for (StepRow& row : rows) {
    if (row.status.ok()) row.status = status;
  }
  TakeDeviceTimes();
  rows_ = {};
  return logits;
}

void DecodeStep::TakeDeviceTimes() {
  const DeviceStepTimes times = device_->step_times();
  const int64_t end_ns = mark_ns_;
  exposed_wait_ns_ = stage_times_[static_cast<size_t>(Stage::kRemoteWait)];
  if (times.step_ns == 0) return;
  exposed_wait_ns_ = times.remote_wait_ns;
  const int64_t busy_ns = times.step_ns - times.remote_wait_ns;
  if (metrics_ != nullptr) {
    metrics_->gpu_busy.Increment(SecondsFromNs(busy_ns));
    metrics_->gpu_remote_wait.Increment(SecondsFromNs(times.remote_wait_ns));
    if (device_end_ns_ != 0) {
      const double share = static_cast<double>(busy_ns) / static_cast<double>(end_ns - device_end_ns_);
      metrics_->gpu_idle.Set(std::clamp(1.0 - share, 0.0, 1.0));
    }
  }
  device_end_ns_ = end_ns;
  if (trace_ == nullptr) return;
  for (const DeviceSpan& span : times.spans) {
    trace_->Add({.name = span.name,
                 .lane = kDeviceLane,
                 .layer = span.layer,
                 .step_id = trace_id_,
                 .begin_ns = end_ns + span.begin_ns,
                 .end_ns = end_ns + span.end_ns});
  }
}

void DecodeStep::RunWindowedLayer(uint32_t layer) {
  device_->AwaitQuery(layer);  // of which nothing is asked: what the layer before left to measure is taken later
  Mark(Stage::kQkv, layer);
  device_->AttendResident(layer);
  Mark(Stage::kLocalAttention, layer);
  num_slots_.assign(rows_.size(), 0);
  device_->FinishLayer(layer, num_slots_);
  Mark(Stage::kMergeMlp, layer);
}

void DecodeStep::RunLayer(uint32_t model_layer) {
  if (layers_.is_windowed(model_layer)) return RunWindowedLayer(model_layer);
  const uint32_t layer = layers_.shard_layer(model_layer);  // its number in frames, facets and measurements
  Plan(layer);  // this and the frames while a device that runs ahead works on q
  PrepareQueries(layer, 0);
  const std::span<const float> q = device_->AwaitQuery(model_layer);
  TakeMeasurements();
  Mark(Stage::kQkv, model_layer);
  gather_.Begin(exchange_id_, layer, expected_, gather_rows_, &device_->partial_slots());
  Scatter(layer, q);
  Mark(Stage::kQuerySend, model_layer);
  device_->AttendResident(model_layer);
  Mark(Stage::kLocalAttention, model_layer);
  Gather(layer, q);
  Mark(Stage::kRemoteWait, model_layer);
  CollectFailures();
  device_->FinishLayer(model_layer, num_slots_);
  Mark(Stage::kMergeMlp, model_layer);
}

void DecodeStep::Plan(uint32_t layer) {
  expected_.clear();
  unasked_.clear();
  num_frames_ = 0;
  sent_.clear();  // they count in expected_
  gather_rows_.clear();
  num_slots_.assign(rows_.size(), 0);
  for (uint32_t r = 0; r < rows_.size(); ++r) {
    const StepRow& row = rows_[r];
    if (row.status.ok() && !row.remote.empty()) num_slots_[r] = row.shards.front().spec.stripe.num_stripes;
    gather_rows_.push_back({row.context_tokens, row.resident_tokens, num_slots_[r], row.status.ok(),
                            /*follows=*/row.query_rows == 0, row.measured});
    if (num_slots_[r] == 0 || row.query_rows == 0) continue;
    for (const BoundShard& shard : row.shards) {
      const ShardSpec& spec = shard.spec;
      const uint64_t tokens = spec.stripe.CountIn(row.remote);
      if (layer < spec.layer_begin || layer >= spec.layer_end || tokens == 0) continue;
      const NodeIdx asked = ChooseHolder(shard, [this](NodeIdx node) { return nodes_->state(node); });
      expected_.push_back({asked, spec.shard_id, r, spec.stripe.stripe_idx, spec.kv_head_begin, spec.kv_head_end,
                           tokens, row.query_rows, row.measured});
      if (row.facet != nullptr) {
        ExpectedPartial& e = expected_.back();
        e.max_section_bytes = static_cast<uint32_t>(row.facet->MaxPartialSectionBytes(FacetQueryOf(layer, e)));
      }
    }
  }
  std::stable_sort(expected_.begin(), expected_.end(),
                   [](const ExpectedPartial& a, const ExpectedPartial& b) { return a.node < b.node; });
}

FacetQuery DecodeStep::FacetQueryOf(uint32_t layer, const ExpectedPartial& e) const {
  const StepRow& row = rows_[e.row];
  TokenStripe stripe = row.shards.front().spec.stripe;
  stripe.stripe_idx = e.slot;
  return {.layer = layer,
          .row = e.row,
          .num_rows = e.num_rows,
          .is_measured = e.measured,
          .is_append = (row.query_flags & kQueryAppend) != 0,
          .kv_heads = {e.kv_head_begin, e.kv_head_end},
          .stripe = stripe,
          .visible = row.remote};
}

size_t DecodeStep::MaxSectionBytes(uint32_t layer, const ExpectedPartial& e) const {
  const PolicyFacet* const facet = rows_[e.row].facet;
  return facet == nullptr ? 0 : facet->MaxQuerySectionBytes(FacetQueryOf(layer, e));
}

bool DecodeStep::WaitsForQuery(size_t begin, size_t end) const {
  return std::any_of(expected_.begin() + static_cast<std::ptrdiff_t>(begin),
                     expected_.begin() + static_cast<std::ptrdiff_t>(end), [&](const ExpectedPartial& e) {
                       const PolicyFacet* const facet = rows_[e.row].facet;
                       return facet != nullptr && facet->query_section_varies();
                     });
}

// The end of the longest run of one node's entries that fits into one query frame and whose answer
// fits into one, too.
size_t DecodeStep::EndOfFrame(uint32_t layer, size_t begin) const {
  const uint32_t head_dim = options_.shape.head_dim;
  size_t query_bytes = sizeof(QueryBody), partial_bytes = sizeof(PartialBody);
  size_t end = begin;
  for (; end < expected_.size() && expected_[end].node == expected_[begin].node; ++end) {
    const ExpectedPartial& e = expected_[end];
    const uint32_t kv_heads = e.kv_head_end - e.kv_head_begin;
    const uint32_t heads = kv_heads * options_.shape.group_size();
    const auto section_bytes = static_cast<uint32_t>(MaxSectionBytes(layer, e));
    query_bytes += QueryEntryBytes(
        {.num_q_heads = heads, .n_q = e.num_rows, .flags = kQueryDenseHeads, .policy_bytes = section_bytes}, head_dim);
    partial_bytes += PartialEntryBytes({.num_q_heads = heads,
                                        .n_q = e.num_rows,
                                        .flags = e.measured ? kPartialMeasured : 0,
                                        .num_kv_heads = kv_heads,
                                        .policy_bytes = e.max_section_bytes},
                                       head_dim);
    const bool fits = std::max(query_bytes, partial_bytes) <= limits::kMaxFramePayloadBytes &&
                      end - begin < limits::kMaxEntriesPerFrame;
    if (!fits) break;
  }
  return std::max(end, begin + 1);
}

void DecodeStep::PrepareQueries(uint32_t layer, size_t begin) {
  queries_.clear();
  targets_.resize(expected_.size());
  while (begin < expected_.size()) {
    const size_t end = EndOfFrame(layer, begin);
    // Without a frame: Scatter() makes it. (A status without words allocates nothing.)
    queries_.push_back({expected_[begin].node, begin, end, num_frames_++, absl::UnavailableError("")});
    if (!WaitsForQuery(begin, end)) {
      queries_.back().frame = data_plane_->AllocateFrame(QueryPayload(layer, begin, end));
      if (queries_.back().frame.ok()) FillFrame(layer, &queries_.back());
    }
    begin = end;
  }
}

size_t DecodeStep::QueryPayload(uint32_t layer, size_t begin, size_t end) {
  entries_.clear();
  for (size_t i = begin; i < end; ++i) {
    const ExpectedPartial& e = expected_[i];
    const StepRow& row = rows_[e.row];
    const size_t section_bytes = row.facet == nullptr ? 0 : row.facet->QuerySectionBytes(FacetQueryOf(layer, e));
    TRIBUTARY_CHECK_LE(section_bytes, size_t{limits::kMaxPolicySectionBytes});
    entries_.push_back(
        {.shard_id = e.shard.value,
         .sequence_epoch = row.shards.front().spec.epoch.value,
         .visible_begin = row.remote.begin,
         .visible_end = row.remote.end,
         .num_q_heads = (e.kv_head_end - e.kv_head_begin) * options_.shape.group_size(),
         .n_q = e.num_rows,
         .flags = row.query_flags | (e.measured ? kQueryMeasure : 0) | (HasDenseHeads(layer, e) ? kQueryDenseHeads : 0),
         .policy_bytes = static_cast<uint32_t>(section_bytes)});
  }
  return QueryPayloadBytes(entries_, options_.shape.head_dim);
}

// entries_ are those of the frame.
void DecodeStep::FillFrame(uint32_t layer, PreparedQuery* query) {
  FrameBuffer& frame = *query->frame;
  QueryPayloadWriter writer(frame.payload(), static_cast<uint32_t>(entries_.size()), options_.shape.head_dim,
                            options_.softmax_scale, options_.soft_cap);
  for (size_t i = query->begin; i < query->end; ++i) {
    const QueryEntry& entry = entries_[i - query->begin];
    targets_[i] = writer.Add(entry);
    if (!targets_[i].dense_heads.empty()) WriteDenseHeads(layer, expected_[i], targets_[i].dense_heads);
    rows_[expected_[i].row].bytes_sent +=
        QueryEntryBytes(entry, options_.shape.head_dim) + (kFrameHeaderBytes + sizeof(QueryBody)) / entries_.size();
  }
  frame.header() = FrameHeader{.type = static_cast<uint8_t>(FrameType::kQuery),
                               .step_id = exchange_id_,
                               .layer = static_cast<uint16_t>(layer),
                               .slot = query->slot};
}

absl::StatusOr<FrameBuffer> DecodeStep::AllocateFrame(size_t payload_bytes) {
  IdleStrategy idle(options_.idle, clock_);
  while (true) {
    absl::StatusOr<FrameBuffer> frame = data_plane_->AllocateFrame(payload_bytes);
    if (frame.ok() || !absl::IsResourceExhausted(frame.status()) || clock_->NowNs() >= deadline_ns_) return frame;
    idle.AfterPoll(nodes_->Poll(), *data_plane_);
  }
}

void DecodeStep::Scatter(uint32_t layer, std::span<const float> q) {
  sent_ns_ = clock_->NowNs();
  for (PreparedQuery& query : queries_) {
    if (!query.frame.ok()) {
      query.frame = AllocateFrame(QueryPayload(layer, query.begin, query.end));
      if (query.frame.ok()) FillFrame(layer, &query);
    }
    if (!query.frame.ok()) {
      for (size_t i = query.begin; i < query.end; ++i)
        gather_.FailRow(expected_[i].row, query.node, query.frame.status());
      continue;
    }
    for (size_t i = query.begin; i < query.end; ++i) {
      CopyQ(i, q);
      if (!targets_[i].policy.empty()) WriteSection(layer, i);
    }
    const int64_t left_us = std::max<int64_t>(1, (deadline_ns_ - sent_ns_) / kNsPerUs);
    query.frame->header().timeout_us = static_cast<uint32_t>(std::min<int64_t>(left_us, UINT32_MAX));
    const absl::StatusOr<uint64_t> frame_seq = nodes_->Send(query.node, *std::move(query.frame), SendClass::kEager);
    if (frame_seq.ok()) {
      sent_.push_back({query.node, *frame_seq, layer, query.slot, query.begin, query.end});
    } else {
      // It may have failed before this step began.
      LoseNode(query.node, frame_seq.status());
    }
  }
  queries_.clear();
}

void DecodeStep::CopyQ(size_t expected_idx, std::span<const float> q) {
  const ExpectedPartial& e = expected_[expected_idx];
  const std::span<float> to = targets_[expected_idx].q;
  const size_t row_floats = to.size() / e.num_rows;
  for (uint32_t j = 0; j < e.num_rows; ++j) {
    const size_t head =
        (size_t{e.row} + j) * options_.shape.num_q_heads + size_t{e.kv_head_begin} * options_.shape.group_size();
    std::copy_n(q.data() + head * options_.shape.head_dim, row_floats, to.data() + j * row_floats);
  }
}

bool DecodeStep::HasDenseHeads(uint32_t layer, const ExpectedPartial& e) const {
  const AttentionQuality* const quality = rows_[e.row].quality;
  for (uint32_t head = e.kv_head_begin; quality != nullptr && head < e.kv_head_end; ++head) {
    if (quality->wants_dense(layer, head)) return true;
  }
  return false;
}

void DecodeStep::WriteDenseHeads(uint32_t layer, const ExpectedPartial& e, std::span<uint32_t> words) const {
  std::fill(words.begin(), words.end(), 0u);
  for (uint32_t head = e.kv_head_begin; head < e.kv_head_end; ++head) {
    const uint32_t held = head - e.kv_head_begin;
    if (rows_[e.row].quality->wants_dense(layer, head)) words[held / 32] |= 1u << held % 32;
  }
}

void DecodeStep::WriteSection(uint32_t layer, size_t expected_idx) {
  const ExpectedPartial& e = expected_[expected_idx];
  rows_[e.row].facet->WriteQuerySection(FacetQueryOf(layer, e), targets_[expected_idx].policy);
}

void DecodeStep::TakeSection(uint32_t layer, const ExpectedPartial& expected, std::span<const std::byte> section) {
  if (expected.max_section_bytes == 0 || gather_.row_failed(expected.row)) return;
  const absl::Status status = rows_[expected.row].facet->OnPartialSection(FacetQueryOf(layer, expected), section);
  if (status.ok()) return;
  const std::string what =
      fmt::format("layer {}: shard {}: {}", layer, expected.shard.value, std::string(status.message()));
  gather_.FailRow(expected.row, expected.node, absl::Status(status.code(), what));
}

void DecodeStep::LoseNode(NodeIdx node, const absl::Status& status) {
  const std::vector<ExpectedPartial> moved = gather_.LoseNode(
      node, status, [this](const ExpectedPartial& expected) { return OtherHolder(expected); },
      [](const ExpectedPartial&) { return Missing::kFails; });
  unasked_.insert(unasked_.end(), moved.begin(), moved.end());
}

void DecodeStep::OnNodeSilent(NodeIdx node, const absl::Status& status) {
  if (rows_.empty()) return;
  const auto other = [&](const ExpectedPartial& expected) {
    const NodeIdx holder = OtherHolder(expected);
    return holder != kNoNode && nodes_->state(holder) != RemoteNodes::State::kSilent ? holder : kNoNode;
  };
  const std::vector<ExpectedPartial> moved =
      gather_.LoseNode(node, status, other, [this](const ExpectedPartial& expected) { return FateOf(expected); });
  unasked_.insert(unasked_.end(), moved.begin(), moved.end());
}

Missing DecodeStep::FateOf(const ExpectedPartial& expected) const {
  const StepRow& row = rows_[expected.row];
  if (row.may_repeat) return Missing::kParks;
  const bool is_silent = nodes_->state(expected.node) == RemoteNodes::State::kSilent;
  const int64_t may_wait_ns = std::min(row.max_stall_ns, kLongestWaitInStepNs);
  return is_silent && clock_->NowNs() - begin_ns_ < may_wait_ns ? Missing::kWaits : Missing::kFails;
}

NodeIdx DecodeStep::OtherHolder(const ExpectedPartial& expected) const {
  const std::span<const BoundShard> shards = rows_[expected.row].shards;
  const auto shard = std::find_if(shards.begin(), shards.end(),
                                  [&](const BoundShard& s) { return s.spec.shard_id == expected.shard; });
  TRIBUTARY_CHECK(shard != shards.end());
  const NodeIdx other = ChooseHolder(*shard, [this](NodeIdx node) { return nodes_->state(node); });
  return nodes_->state(other) == RemoteNodes::State::kFailed ? kNoNode : other;
}

void DecodeStep::AskOthers(uint32_t layer, std::span<const float> q) {
  while (!unasked_.empty()) {  // those who are asked now may fail, too
    const size_t begin = expected_.size();
    for (const ExpectedPartial& expected : std::exchange(unasked_, {})) {
      // Its row may have failed, or this node, too: then it is in unasked_ again.
      if (nodes_->state(expected.node) != RemoteNodes::State::kFailed) expected_.push_back(expected);
    }
    std::stable_sort(expected_.begin() + static_cast<std::ptrdiff_t>(begin), expected_.end(),
                     [](const ExpectedPartial& a, const ExpectedPartial& b) { return a.node < b.node; });
    PrepareQueries(layer, begin);
    Scatter(layer, q);
  }
}

void DecodeStep::Gather(uint32_t layer, std::span<const float> q) {
  IdleStrategy idle(options_.idle,
                    clock_);  // a fresh one: the last event may be a layer's work ago
  int64_t looked_ns = clock_->NowNs();
  while (!gather_.done()) {
    AskOthers(layer, q);
    const int events = nodes_->Poll();
    if (gather_.done()) break;
    // What has arrived by now counts, and one poll need not fetch all of it: after a long piece of
    // work of ours, or a SIGSTOP, the nodes are not to blame, and get the time back.
    const int64_t now_ns = clock_->NowNs();
    deadline_ns_ += std::max<int64_t>(0, now_ns - looked_ns - kLongestLookNs);
    looked_ns = now_ns;
    if (events == 0) {
      AwaitMissing(now_ns);
      if (now_ns >= deadline_ns_) EndMissing(now_ns);
      if (gather_.done()) break;
    }
    idle.AfterPoll(events, *data_plane_);
  }
  if (metrics_ != nullptr && !expected_.empty()) {
    metrics_->remote_attention.Observe(SecondsFromNs(clock_->NowNs() - sent_ns_));
  }
}

void DecodeStep::AwaitMissing(int64_t now_ns) {
  if (now_ns - awaited_ns_ < kAwaitIntervalNs) return;
  awaited_ns_ = now_ns;
  std::vector<NodeIdx> silent;
  gather_.ForEachMissing([&](const ExpectedPartial& expected) {
    nodes_->Await(expected.node);
    if (nodes_->state(expected.node) == RemoteNodes::State::kSilent) silent.push_back(expected.node);
  });
  for (const NodeIdx node : silent) {  // it may have been so before it was asked
    OnNodeSilent(node, absl::UnavailableError(
                           fmt::format("nothing heard from it for {:.3f} s", SecondsFromNs(nodes_->silent_ns(node)))));
  }
}

void DecodeStep::EndMissing(int64_t now_ns) {
  if (metrics_ != nullptr) metrics_->partials_missing.Increment(gather_.num_missing());
  const absl::Status status =
      absl::DeadlineExceededError(fmt::format("no partial within the step's {:.3f} s", SecondsFromNs(timeout_ns_)));
  gather_.EndMissing(status, [this](const ExpectedPartial& expected) { return FateOf(expected); });
  deadline_ns_ = now_ns + timeout_ns_;  // for the rows that go on
}

void DecodeStep::CollectFailures() {
  for (const RowFailure& failure : gather_.Finish()) {
    for (uint32_t r = failure.row; r < failure.row + rows_[failure.row].query_rows; ++r) {
      rows_[r].status = failure.status;
      rows_[r].failed_node = failure.node;
      rows_[r].parked = failure.parked;
      num_slots_[r] = 0;
    }
  }
  for (uint32_t r = 0; r < rows_.size(); ++r) {
    if (rows_[r].measured && num_slots_[r] != 0) measured_rows_.push_back(r);  // failed rows have no slots
  }
}

void DecodeStep::TakeMeasurements() {
  for (const uint32_t r : measured_rows_) {
    MeasuredLayer measured = gather_.measured(r);
    measured.resident = device_->resident_partial(r);
    AttentionQuality& quality = *rows_[r].quality;
    quality.AddLayer(measured);
    const bool is_one_token = rows_[r].query_rows == 1;
    if (rows_[r].facet != nullptr && is_one_token) {
      rows_[r].facet->OnMeasured(measured.layer, quality.selected_output_errors());
    }
  }
  measured_rows_.clear();
}

void DecodeStep::OnPartial(NodeIdx node, const FrameHeader& header, const PartialFrameView& partial) {
  if (trace_ != nullptr && header.step_id == exchange_id_) {
    trace_->Add({.name = "remote_attention",
                 .lane = 1 + node,
                 .layer = header.layer,
                 .step_id = trace_id_,
                 .begin_ns = sent_ns_,
                 .end_ns = clock_->NowNs()});
  }
  gather_.OnPartial(node, header, partial,
                    [&](Arrival arrival, const ExpectedPartial* expected, const PartialEntry& entry) {
                      if (arrival == Arrival::kTaken) {
                        StepRow& row = rows_[expected->row];
                        TakeSection(header.layer, *expected, partial.policy(entry));
                        row.attended_head_tokens += entry.attended_head_tokens;
                        row.bytes_received += PartialEntryBytes(entry, options_.shape.head_dim) +
                                              (kFrameHeaderBytes + sizeof(PartialBody)) / partial.body().num_entries;
                      }
                      if (metrics_ == nullptr) return;
                      if (arrival == Arrival::kTaken) {
                        (entry.status == 0 ? metrics_->partials_ok : metrics_->partials_invalid).Increment();
                      } else {
                        (arrival == Arrival::kLate ? metrics_->partials_late : metrics_->partials_invalid).Increment();
                      }
                    });
}

void DecodeStep::OnRejected(NodeIdx node, const ErrorBody& error, std::string_view text) {
  if (rows_.empty()) return;
  for (const SentQuery& query : sent_) {
    if (query.node != node || query.frame_seq != error.rejected_frame_seq) continue;
    const absl::Status status =
        absl::InternalError(fmt::format("it rejected the query frame: {}", RefusalText(error, text)));
    for (size_t i = query.begin; i < query.end; ++i) gather_.FailRow(expected_[i].row, node, status);
  }
}

void DecodeStep::OnDamaged(NodeIdx node, const FrameHeader& header) {
  const auto type = static_cast<FrameType>(header.type);
  const bool may_be_ours = type == FrameType::kPartial || type == FrameType::kError;
  if (rows_.empty() || header.step_id != exchange_id_ || !may_be_ours) return;
  for (const SentQuery& query : sent_) {
    if (query.node != node || query.layer != header.layer || query.slot != header.slot) continue;
    for (size_t i = query.begin; i < query.end; ++i) {
      gather_.FailRow(expected_[i].row, node,
                      absl::InternalError(fmt::format("layer {}: its answer was damaged on the way: {}", header.layer,
                                                      std::string(FrameErrorName(FrameError::kBadPayload)))));
    }
  }
}

void DecodeStep::OnNodeFailed(NodeIdx node, const absl::Status& status) {
  if (rows_.empty()) return;
  const uint32_t missing_before = gather_.num_missing();
  LoseNode(node, status);
  if (metrics_ != nullptr) {
    metrics_->partials_missing.Increment(missing_before - gather_.num_missing());
  }
}

void DecodeStep::Mark(Stage stage, int32_t layer) {
  const int64_t now_ns = clock_->NowNs();
  stage_times_[static_cast<size_t>(stage)] += now_ns - mark_ns_;
  if (trace_ != nullptr) {
    trace_->Add({.name = kStageNames[static_cast<size_t>(stage)],
                 .layer = layer,
                 .step_id = trace_id_,
                 .begin_ns = mark_ns_,
                 .end_ns = now_ns});
  }
  mark_ns_ = now_ns;
}

}  // namespace tributary
