// READ THIS FIRST: how one batch gets one token.
//
// Each layer goes through five stages, and the logits follow after the last one:
//
//   qkv               The device computes RMSNorm, QKV and RoPE, and appends to the window. Meanwhile the host lays out
//                     the frames of the queries. Then q comes to the host.
//   query_send        Each CPU node gets one query frame for all rows that have shards there. Of several holders of a
//                     shard, one is asked.
//   local_attention   The device attends over sinks and window, while the nodes attend over their shards.
//   remote_wait       The host waits until every partial is in its slot, its row has left the batch, or the deadline
//                     passes.
//   merge_mlp         The host checks the coverage. The device merges in slot order, projects, and computes the MLP.
//
// What a node that fails or falls silent was asked for and has not answered is asked of another holder, if there is
// one. A row whose partial does not come leaves the batch, so that the others do not wait, and keep their bits. It
// fails if the node has failed, and is parked, to be run again from its first layer, if the node is silent or does not
// answer by the deadline. Rows that may not be run again wait for a silent node. Rows without remote tokens send
// nothing and wait for nobody.
//
// Thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/device/facet.h"
#include "gpu_worker/device/layer_map.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "gpu_worker/remote/remote_nodes.h"
#include "gpu_worker/spill/spill.h"
#include "gpu_worker/step/partial_gather.h"
#include "telemetry/step_trace.h"
#include "transport/data_plane.h"
#include "transport/idle_strategy.h"
#include "wire/frame_builder.h"

namespace tributary {

struct StepRow {
  // The caller fills these in.
  DecodeRow device;
  // Successive tokens of one sequence, in rows that follow each other, ask the nodes together and
  // share shards, `remote` and fate: the first row says how many there are, the others 0.
  uint32_t query_rows = 1;
  uint32_t query_flags = 0;            // QueryEntry::flags (wire/frame.h)
  std::span<const BoundShard> shards;  // of the sequence; alive until the step is done
  TokenRange remote;
  uint64_t context_tokens = 0;          // this token included
  uint64_t resident_tokens = 0;         // likewise
  PolicyFacet* facet = nullptr;         // of `device.resident`; null: none
  AttentionQuality* quality = nullptr;  // of a sparse policy: says whether the step is measured
  // The step may be broken off and run again: no layer of it changes what a policy knows, here or on a node.
  bool may_repeat = false;
  int64_t max_stall_ns = 0;  // how long a row that may not be run again waits for silent nodes

  // Out.
  bool measured = false;
  absl::Status status;  // without the node's name
  NodeIdx failed_node = kNoNode;
  bool parked = false;  // `status` is why, and its resident KV of this token is worth nothing; run it again
  // These are sums over all query_rows.
  uint64_t attended_head_tokens = 0;  // remote tokens attended, times KV heads, summed over layers
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
};

struct DecodeStepOptions {
  AttentionShape shape;
  uint32_t num_layers = 0;
  std::vector<uint32_t> windowed_layers = {};  // of which no shard has anything (ModelLimits)
  float softmax_scale = 0;
  float soft_cap = 0;  // of scores; 0: none
  IdleOptions idle;
};

// The trace's lane for what a device that runs ahead does by its own clock.
inline constexpr uint32_t kDeviceLane = 1000;

// Nanoseconds per stage.
using StageTimes = std::array<int64_t, kNumStages>;

class DecodeStep {
 public:
  // The pointers outlive this; metrics and trace may be null.
  DecodeStep(const DecodeStepOptions& options, Device* device, DataPlane* data_plane, RemoteNodes* nodes,
             const Clock* clock, EngineMetrics* metrics, StepTrace* trace);

  // Runs the step. Logits are f32 [row][vocab_size], meaningless for rows whose status is not OK,
  // valid until the next step. The deadline is `timeout_ns` from now; when rows have failed by it,
  // the rest gets as long again, so a step ends within (1 + number of lost nodes) times timeout_ns.
  // REQUIRES: 1 <= rows.size() <= max_batch.
  std::span<const float> Run(std::span<StepRow> rows, int64_t timeout_ns);

  // The caller has taken its tokens from the logits: ends the last stage, kSample.
  void EndSample() { Mark(Stage::kSample, -1); }
  const StageTimes& stage_times() const { return stage_times_; }
  // Time in which the device had nothing to do but wait for partials.
  int64_t exposed_wait_ns() const { return exposed_wait_ns_; }
  // Names the step in traces.
  void set_trace_id(uint64_t step_id) { trace_id_ = step_id; }

  // What comes in during a step, or late: the owner of RemoteNodes hands these on.
  void OnPartial(NodeIdx node, const FrameHeader& header, const PartialFrameView& partial);
  void OnRejected(NodeIdx node, const ErrorBody& error, std::string_view text);
  void OnDamaged(NodeIdx node, const FrameHeader& header);
  void OnNodeSilent(NodeIdx node, const absl::Status& status);
  void OnNodeFailed(NodeIdx node, const absl::Status& status);

 private:
  void RunLayer(uint32_t model_layer);
  // A layer whose attention sees a window only: nobody is asked.
  void RunWindowedLayer(uint32_t layer);
  // What a row's facet is told of a query; `e` is of a row that has one.
  FacetQuery FacetQueryOf(uint32_t layer, const ExpectedPartial& e) const;
  // The bytes, at most, of the section that the row's facet, if any, adds to the query.
  size_t MaxSectionBytes(uint32_t layer, const ExpectedPartial& e) const;
  // True: the frame of expected_[begin, end) cannot be laid out before q is there.
  bool WaitsForQuery(size_t begin, size_t end) const;
  // Fills expected_ and gather_rows_ with what this layer's live rows need.
  void Plan(uint32_t layer);
  // One frame for expected_[begin, end), which are of one node.
  struct PreparedQuery {
    NodeIdx node;
    size_t begin, end;
    uint16_t slot;  // of the header: tells the frames of a layer apart
    absl::StatusOr<FrameBuffer> frame;
  };
  // Fills queries_ with frames for expected_ from `begin` on that lack only q: what can be done before q is there.
  // Never waits: a frame for which there is no room is left out.
  void PrepareQueries(uint32_t layer, size_t begin);
  size_t QueryPayload(uint32_t layer, size_t begin, size_t end);  // its bytes; fills entries_
  void FillFrame(uint32_t layer, PreparedQuery* query);
  // Sends queries_, and makes the frames that were left out once those before them are on their way. Fails the rows of
  // those that cannot be sent.
  void Scatter(uint32_t layer, std::span<const float> q);
  void CopyQ(size_t expected_idx, std::span<const float> q);
  void WriteSection(uint32_t layer, size_t expected_idx);
  // The answer's section, to the row's facet.
  void TakeSection(uint32_t layer, const ExpectedPartial& expected, std::span<const std::byte> section);
  absl::StatusOr<FrameBuffer> AllocateFrame(size_t payload_bytes);
  size_t EndOfFrame(uint32_t layer, size_t begin) const;
  void Gather(uint32_t layer, std::span<const float> q);
  // The nodes that are waited for: are they there? Rows of silent ones leave the batch.
  void AwaitMissing(int64_t now_ns);
  // The step's deadline has passed.
  void EndMissing(int64_t now_ns);
  // What becomes of a row whose node is silent, or has not answered by the deadline.
  Missing FateOf(const ExpectedPartial& expected) const;
  // This node will not answer any more: its rows fail, or what it was asked for goes to unasked_.
  void LoseNode(NodeIdx node, const absl::Status& status);
  // Another holder of what was asked for; kNoNode if none is left.
  NodeIdx OtherHolder(const ExpectedPartial& expected) const;
  // KV heads of the shard that the query wants to be answered by everything.
  bool HasDenseHeads(uint32_t layer, const ExpectedPartial& e) const;
  void WriteDenseHeads(uint32_t layer, const ExpectedPartial& e, std::span<uint32_t> words) const;
  // Asks for what is in unasked_.
  void AskOthers(uint32_t layer, std::span<const float> q);
  void CollectFailures();
  // Notes for measured rows what the nodes' selections kept of the layer last finished: the device has handed out its
  // resident partials by now.
  void TakeMeasurements();
  // Metrics and trace of a device that runs ahead.
  void TakeDeviceTimes();
  // Ends a stage: adds the time since the last one ended.
  void Mark(Stage stage, int32_t layer);

  const DecodeStepOptions options_;
  const LayerMap layers_;
  Device* const device_;
  DataPlane* const data_plane_;
  RemoteNodes* const nodes_;
  const Clock* const clock_;
  EngineMetrics* const metrics_;
  StepTrace* const trace_;
  PartialGather gather_;

  struct SentQuery {
    NodeIdx node;
    uint64_t frame_seq;
    uint32_t layer;
    uint16_t slot;      // of the header
    size_t begin, end;  // of expected_
  };
  // These are of the step that runs.
  std::span<StepRow> rows_;
  // This worker's number of the step: never repeats, unlike the coordinator's, and is no spill's (SpillSender).
  uint64_t exchange_id_ = 0;
  uint64_t trace_id_ = 0;
  int64_t timeout_ns_ = 0;
  int64_t deadline_ns_ = 0;
  int64_t mark_ns_ = 0;
  int64_t sent_ns_ = 0;
  int64_t begin_ns_ = 0;    // of the step
  int64_t awaited_ns_ = 0;  // when AwaitMissing() last looked
  StageTimes stage_times_{};
  int64_t exposed_wait_ns_ = 0;
  int64_t device_end_ns_ = 0;              // when the last step with times ended
  std::vector<ExpectedPartial> expected_;  // sorted by node, then row; then what was asked again
  std::vector<ExpectedPartial> unasked_;   // of nodes that have failed: others are to be asked
  std::vector<GatherRow> gather_rows_;
  std::vector<uint32_t> num_slots_;
  std::vector<uint32_t> measured_rows_;  // of the layer last finished, until TakeMeasurements()
  std::vector<PreparedQuery> queries_;
  uint16_t num_frames_ = 0;          // of this layer
  std::vector<QuerySpans> targets_;  // in the frames of queries_, by index of expected_
  std::vector<SentQuery> sent_;
  std::vector<QueryEntry> entries_;  // scratch: of one frame
  std::vector<DecodeRow> device_rows_;
};

}  // namespace tributary
