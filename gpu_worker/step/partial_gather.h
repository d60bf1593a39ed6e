// Waits for one layer's partials, as a pure state machine: what is expected, and what came of it.
//
//   Begin(expected) ; { OnPartial | LoseNode | EndMissing }* until done() ; Finish()
//
// A missing partial is an error of its row, or the row's step is run again; it is never an omission. The other rows of
// the batch do not notice. Duplicates and partials of an earlier layer or step are told apart and ignored. Values
// are copied into the device's slots where the shard's token stripe and heads say, so nothing
// depends on the order of arrival.
//
// Allocates only when a batch is larger than any before, when a row fails, or when a node is lost. Thread-compatible.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "attention/merge_all.h"
#include "attention/shape.h"
#include "base/ids.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/remote/remote_nodes.h"
#include "gpu_worker/step/attention_quality.h"
#include "wire/frame.h"

namespace tributary {

// One shard's answer for one row of the batch, or for several of one sequence.
struct ExpectedPartial {
  NodeIdx node = kNoNode;
  ShardId shard;
  uint32_t row = 0;
  uint32_t slot = 0;  // token stripe
  uint32_t kv_head_begin = 0;
  uint32_t kv_head_end = 0;
  uint64_t tokens = 0;             // visible ones of the shard: what it must cover
  uint32_t num_rows = 1;           // query tokens of the entry: row, row + 1, ...
  bool measured = false;           // the query asked for a measurement
  uint32_t max_section_bytes = 0;  // of its policy
};

// What a row's coverage must add up to.
struct GatherRow {
  uint64_t context_tokens = 0;
  uint64_t resident_tokens = 0;
  uint32_t num_slots = 0;
  bool live = true;      // false: failed in an earlier layer
  bool follows = false;  // its queries go with those of the row before, and so does its fate
  bool measured = false;
};

struct RowFailure {
  uint32_t row = 0;        // and those that follow it
  NodeIdx node = kNoNode;  // to blame; kNoNode for our own mistakes
  absl::Status status;     // without the node's name
  bool parked = false;     // nothing is wrong but that the node does not answer: the row's step is to be run again
};

// What becomes of a row whose partial does not come.
enum class Missing { kFails, kParks, kWaits };

// What became of one received entry.
enum class Arrival {
  kTaken,       // a row's partial, or its error
  kLate,        // another layer or step, a duplicate, a row that failed
  kUnexpected,  // nobody asked this node for this shard
};

class PartialGather {
 public:
  explicit PartialGather(const AttentionShape& shape) : shape_(shape) {}

  // Starts a layer. `expected` are of live rows; `slots` are filled with the empty partial for each
  // row's num_slots. Rows without remote tokens have none expected.
  void Begin(uint64_t step_id, uint32_t layer, std::span<const ExpectedPartial> expected,
             std::span<const GatherRow> rows, PartialSlots* slots);

  // One partial frame. Calls on_entry(Arrival, const ExpectedPartial*, const PartialEntry&) for
  // each entry; the pointer is null unless kTaken.
  template <typename OnEntry>
  void OnPartial(NodeIdx node, const FrameHeader& header, const PartialFrameView& partial, OnEntry&& on_entry) {
    const bool current = active_ && header.step_id == step_id_ && header.layer == layer_;
    for (uint32_t i = 0; i < partial.body().num_entries; ++i) {
      const PartialEntry entry = partial.entry(i);
      const ExpectedPartial* expected = nullptr;
      const Arrival arrival = current ? Take(node, partial, entry, &expected) : Arrival::kLate;
      on_entry(arrival, expected, entry);
    }
  }

  // This node will not answer, or not soon. What is still waited for from it is asked of another node, where
  // other(ExpectedPartial) knows one; where that says kNoNode, fate(ExpectedPartial) says what becomes of the row.
  // Returns what is to be asked, with its new node.
  template <typename Other, typename Fate>
  std::vector<ExpectedPartial> LoseNode(NodeIdx node, const absl::Status& status, Other&& other, Fate&& fate) {
    std::vector<ShardId> moved;
    for (size_t i = 0; active_ && i < expected_.size(); ++i) {
      if (expected_[i].node != node || states_[i] != EntryState::kWaiting) continue;
      const NodeIdx next = other(std::as_const(expected_[i]));
      if (next == kNoNode) {
        EndRow(i, status, fate(std::as_const(expected_[i])));
      } else {
        expected_[i].node = next;
        moved.push_back(expected_[i].shard);
      }
    }
    return moved.empty() ? std::vector<ExpectedPartial>() : EndMove(moved);
  }
  // The rows that still wait for anything meet what fate(ExpectedPartial) says, each blaming the first node that it
  // waits for.
  template <typename Fate>
  void EndMissing(const absl::Status& status, Fate&& fate) {
    for (size_t i = 0; i < expected_.size(); ++i) {
      if (states_[i] == EntryState::kWaiting) EndRow(i, status, fate(std::as_const(expected_[i])));
    }
  }
  // Calls use(const ExpectedPartial&) for each that is still waited for. It may not change the gather.
  template <typename Use>
  void ForEachMissing(Use&& use) const {
    for (size_t i = 0; active_ && i < expected_.size(); ++i) {
      if (states_[i] == EntryState::kWaiting) use(expected_[i]);
    }
  }
  // One row fails, whatever it waits for.
  void FailRow(uint32_t row, NodeIdx node, const absl::Status& status) { DropRow({row, node, status}); }

  // True if this row, which is the first of those that ask together, has failed in this layer.
  bool row_failed(uint32_t row) const { return row_failed_[row]; }
  // True if no live row waits.
  bool done() const { return num_missing_ == 0; }
  uint32_t num_missing() const { return num_missing_; }

  // Ends the layer: checks that each live row's partials and resident tokens cover its context
  // once; those that do not fail (INTERNAL). REQUIRES: done(). The failures of this layer are valid
  // until the next Begin().
  std::span<const RowFailure> Finish();
  // What was measured of a row that did not fail, without its resident partial; after Finish(), until the next Begin().
  // REQUIRES: the row is measured.
  MeasuredLayer measured(uint32_t row) const;

 private:
  enum class EntryState : uint8_t { kWaiting, kArrived, kDropped };

  Arrival Take(NodeIdx node, const PartialFrameView& partial, const PartialEntry& entry,
               const ExpectedPartial** expected);
  // Why an entry is no answer to what was asked; OK if it is.
  absl::Status CheckEntry(const ExpectedPartial& expected, const PartialFrameView& partial,
                          const PartialEntry& entry) const;
  // Likewise, of what was measured. That the heads' tokens add up, and either attention is dense, is the decoder's to
  // check.
  absl::Status CheckMeasured(const ExpectedPartial& expected, const PartialFrameView& partial,
                             const PartialEntry& entry) const;
  void CopyOut(const ExpectedPartial& expected, const PartialFrameView& partial, const PartialEntry& entry);
  void CopySample(const ExpectedPartial& expected, const PartialFrameView& partial, const PartialEntry& entry);
  void ClearSlots(std::span<const GatherRow> rows);
  void EndRow(size_t expected_idx, const absl::Status& status, Missing fate) {
    const ExpectedPartial& e = expected_[expected_idx];
    if (fate != Missing::kWaits) DropRow({e.row, e.node, status, fate == Missing::kParks});
  }
  void DropRow(const RowFailure& failure);
  // Sorts expected_ again. Returns the entries of these shards that are still waited for.
  std::vector<ExpectedPartial> EndMove(std::span<const ShardId> shards);

  const AttentionShape shape_;
  bool active_ = false;
  uint64_t step_id_ = 0;
  uint32_t layer_ = 0;
  PartialSlots* slots_ = nullptr;
  std::vector<ExpectedPartial> expected_;  // sorted by (node, shard)
  std::vector<EntryState> states_;         // of expected_
  std::vector<uint64_t> covered_;          // of expected_
  std::vector<GatherRow> rows_;
  std::vector<bool> row_failed_;
  std::vector<std::vector<RouteCoverage>> coverage_;  // [row]
  std::vector<RowFailure> failures_;
  // These are laid out as the device's slots, and are of measured rows only.
  std::vector<float> sample_out_;          // [row][max_slots][num_q_heads][head_dim]
  std::vector<float> sample_lse_ln_;       // [row][max_slots][num_q_heads]
  std::vector<uint32_t> attended_tokens_;  // [row][max_slots][num_kv_heads]
  std::vector<uint32_t> sampled_tokens_;   // likewise
  uint32_t num_missing_ = 0;
};

}  // namespace tributary
