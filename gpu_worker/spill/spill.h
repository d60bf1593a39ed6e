// Sends KV to shards, in prefill and when a block leaves the window, and remembers what is not yet
// acknowledged.
//
// The device copies K and V straight into the frame, beside what else it does; the frame leaves once
// the copy is done (Pump). Each spill frame is in flight from Send() to its acknowledgement. The
// bytes in flight per node are bounded, so a slow node slows its own sequences and floods nobody. A shard that several
// nodes hold is sent to each of them, in frames of its own, and acknowledged by each. A frame that is not acknowledged
// in time, or refused, is a failure of its holder; nothing is sent twice (the transport is reliable while it lives).
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/ids.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/remote/bound_shard.h"
#include "gpu_worker/remote/remote_nodes.h"
#include "transport/data_plane.h"
#include "wire/frame.h"
#include "wire/replay_window.h"

namespace tributary {

struct SpillOptions {
  uint64_t window_bytes = 0;  // in flight per node; one frame is always allowed
  int64_t timeout_ns = 0;     // of patient time (RemoteNodes::patient_now_ns)
};

// A spill that went wrong: the node does not have what it should hold of the sequence.
struct SpillFailure {
  SequenceId sequence;
  NodeIdx node = kNoNode;
  absl::Status status;  // without the node's name
};

// Starts the copy of some tokens' heads, [token][heads][head_dim], into k and v.
class KvReader {
 public:
  virtual ~KvReader() = default;
  virtual CopyTicket Read(HeadRange heads, std::span<std::byte> k, std::span<std::byte> v) const = 0;
  // The policy section of these tokens' heads (wire/frame.h): its bytes, 0 for none, and its writing, done on return.
  virtual size_t SectionBytes(HeadRange heads) const { return 0; }
  virtual void WriteSection(HeadRange heads, std::span<std::byte> section) const {}
};

class SpillSender {
 public:
  enum class Sent {
    kSent,
    kNoRoom,  // the node's window or the frame buffers are full: try again after a poll
    kFailed,  // the node has failed; the listener of RemoteNodes knows
  };

  SpillSender(const SpillOptions& options, Device* device, DataPlane* data_plane, RemoteNodes* nodes,
              EngineMetrics* metrics)
      : options_(options), device_(device), data_plane_(data_plane), nodes_(nodes), metrics_(metrics) {}
  ~SpillSender();  // waits for copies into its frames
  SpillSender(const SpillSender&) = delete;
  SpillSender& operator=(const SpillSender&) = delete;

  // Bulk frames may be overtaken by eager ones, of which a step sends one per layer, and a receiver
  // tells replays apart for a window of sequence numbers only (wire/replay_window.h): no frame
  // is sent while one that is this much older is in flight.
  static constexpr uint64_t kMaxFrameSeqSpread = ReplayWindow::kWindowFrames / 2;

  // Bytes of one token of one layer in a frame to this shard, K and V.
  static uint64_t TokenBytes(const BoundShard& shard);

  // Sends tokens [token_begin, token_begin + num_tokens) of a layer to one holder of the shard; `reader` reads the
  // shard's heads of them. REQUIRES: the tokens lie in one run of the shard's stripe, the layer in the shard.
  Sent Send(const BoundShard& shard, NodeIdx holder, uint32_t layer, uint64_t token_begin, uint32_t num_tokens,
            const KvReader& reader);
  // Sends the frames whose copies are done. Returns how many.
  int Pump();

  // Takes an acknowledgement. Returns a failure if the shard refused the tokens; unknown ones are
  // ignored.
  std::optional<SpillFailure> OnAck(NodeIdx node, uint32_t layer, const AckBody& ack);
  // The node refused a frame as a whole, in these words.
  std::optional<SpillFailure> OnRejected(NodeIdx node, const ErrorBody& error, std::string_view text);
  // An answer of the node was damaged on the way (NodeListener), an acknowledgement or a refusal: nobody can say
  // whether the tokens are stored.
  std::optional<SpillFailure> OnDamaged(NodeIdx node, const FrameHeader& header);
  // A failure for each sequence and node with overdue frames. While a node is silent nothing is overdue, and the time
  // begins anew when it is heard again.
  std::vector<SpillFailure> FindOverdue() const;

  // Frames of this sequence in flight, to all holders: none once each of them has acknowledged everything.
  uint32_t in_flight(SequenceId sequence) const;
  // Nodes with frames of this sequence in flight: whom to blame for a stall. kNoNode if there are
  // none.
  NodeIdx SlowestNode(SequenceId sequence) const;
  // Forgets the sequence's frames; late acknowledgements are ignored.
  void Drop(SequenceId sequence);
  // Likewise those to one node, which has lost the sequence.
  void DropHolder(SequenceId sequence, NodeIdx node);

  size_t num_in_flight() const { return frames_.size(); }
  uint64_t bytes_in_flight(NodeIdx node) const;
  // Frame bytes sent and received for the sequence since the last call.
  struct Traffic {
    uint64_t sent = 0;
    uint64_t received = 0;
  };
  Traffic TakeTraffic(SequenceId sequence);

 private:
  struct Key {
    NodeIdx node;
    uint64_t shard_id;
    uint32_t layer;
    uint64_t token_begin;
    friend bool operator==(const Key&, const Key&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& k) {
      return H::combine(std::move(h), k.node, k.shard_id, k.layer, k.token_begin);
    }
  };
  struct Frame {
    SequenceId sequence;
    uint32_t num_tokens = 0;
    uint64_t bytes = 0;
    uint64_t number = 0;  // the frame's step_id, which its answer repeats
    uint64_t frame_seq = kUnsent;
    int64_t sent_ns = 0;  // patient time; of Send() until it has left
  };
  static constexpr uint64_t kUnsent = UINT64_MAX;
  // The numbers of spills begin here, those of steps at 1: an answer that says no more than its step_id belongs to one.
  static constexpr uint64_t kFirstNumber = uint64_t{1} << 63;
  // A frame that the device copies into.
  struct Filling {
    Key key;
    FrameBuffer frame;
    CopyTicket ticket = 0;
    bool dropped = false;
  };
  using Frames = absl::flat_hash_map<Key, Frame>;
  void Forget(Frames::iterator it);
  // Forgets the frames whose (key, frame) fulfil it.
  template <typename Predicate>
  void ForgetIf(Predicate&& predicate);
  // Sends a frame that is in frames_ already. False if its node has failed.
  bool SendFilled(const Key& key, FrameBuffer frame);
  // What is in flight to one node.
  struct NodeWindow {
    uint64_t bytes = 0;
    std::set<uint64_t> frame_seqs;
  };
  NodeWindow& WindowOf(NodeIdx node);
  bool Fits(NodeIdx node, uint64_t frame_bytes) const;

  const SpillOptions options_;
  Device* const device_;
  DataPlane* const data_plane_;
  RemoteNodes* const nodes_;
  EngineMetrics* const metrics_;
  Frames frames_;
  uint64_t next_number_ = kFirstNumber;
  std::deque<Filling> filling_;  // in the order in which the device copies
  std::vector<NodeWindow> windows_;
  absl::flat_hash_map<SequenceId, uint32_t> in_flight_;
  absl::flat_hash_map<SequenceId, Traffic> traffic_;
};

}  // namespace tributary
