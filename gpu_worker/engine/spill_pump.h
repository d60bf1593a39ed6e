// Blocks that leave the windows of growing sequences: begins them, sends their frames as nodes have room, and releases
// their slots once every frame of theirs is acknowledged.
//
// Its slots are free when every holder of its shards that is not lost has acknowledged every layer of it.
//
// A block begins to leave as soon as WindowCache says that it should, and goes on between and during steps; a step
// waits for it only when its sequence's window is full. What goes wrong (a refusal, silence, a deadline) loses the
// holder to the sequence, and fails it with the node to blame once a shard has no other holder. Owns nothing: each
// sequence has its own BlockSpill. Thread-compatible.
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/engine/sequence_table.h"
#include "gpu_worker/remote/remote_nodes.h"
#include "gpu_worker/spill/spill.h"
#include "transport/data_plane.h"
#include "wire/frame.h"

namespace tributary {

class SpillPump {
 public:
  // All outlive this. The owner of `nodes` hands on what they say of spills.
  SpillPump(const EngineOptions& options, Device* device, DataPlane* data_plane, RemoteNodes* nodes, const Clock* clock,
            const SequenceTable* sequences, SpillSender* sender)
      : options_(options),
        layers_(options.model.layers()),
        device_(device),
        data_plane_(data_plane),
        nodes_(nodes),
        clock_(clock),
        sequences_(sequences),
        sender_(sender) {}

  // Begins the spills that are due, and sends what there is room for. Between steps.
  void BeginDue();
  // Sends what there is room for. False if nothing was sent.
  bool Pump();
  // Makes room in the window if its oldest block is acknowledged. False if there is none.
  bool TryMakeRoom(Sequence& sequence);
  // Polls until the sequence can append, or must be left out of this step because a holder is silent. At the deadline
  // the slowest holder is lost, and the others get timeout_ns more; the sequence is parked if no other holds what it
  // does.
  void MakeRoom(Sequence& sequence, int64_t deadline_ns, int64_t timeout_ns);
  // Loses the holders that did not acknowledge a frame in time. Looks ten times a second.
  void LoseOverdue();
  // The node no longer has what it should of the sequence: nothing is sent to it or asked of it any more. `status`
  // fails the sequence if a shard of it has no holder left.
  void LoseHolder(Sequence& sequence, NodeIdx node, const absl::Status& status);

  void OnAck(NodeIdx node, const FrameHeader& header, const AckBody& ack);
  void OnRejected(NodeIdx node, const ErrorBody& error, std::string_view text);
  void OnDamaged(NodeIdx node, const FrameHeader& header);

  // Sequences with a block on its way.
  size_t num_blocks() const;

 private:
  // Whom the sequence's block waits for. REQUIRES: a block that is not all acknowledged.
  NodeIdx SlowestHolder(const Sequence& sequence) const;
  void LoseFrom(const SpillFailure& failure);

  const EngineOptions& options_;
  const LayerMap layers_;
  Device* const device_;
  DataPlane* const data_plane_;
  RemoteNodes* const nodes_;
  const Clock* const clock_;
  const SequenceTable* const sequences_;
  SpillSender* const sender_;
  int64_t overdue_ns_ = 0;  // when LoseOverdue() last looked, patient time
};

}  // namespace tributary
