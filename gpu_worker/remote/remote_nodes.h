// The GPU worker's sessions with CPU attention nodes: pairs with them, seals frames, checks what comes back, and sends
// heartbeats.
//
// A node is in one of three states:
//
//   connecting   It was paired with over the control plane; nothing has come over the data plane yet.
//   healthy      It has been heard of lately.
//   failed       Its endpoint failed, it was silent for longer than `silence_timeout_ns`, or it dropped the session.
//
// A failed node stays failed for the sequences that used it; Acquire() for a later one pairs anew.
//
// Thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "gpu_worker/remote/patient_clock.h"
#include "gpu_worker/sequence/sequence_plan.h"
#include "transport/data_plane.h"
#include "wire/frame.h"
#include "wire/frame_seal.h"
#include "wire/replay_window.h"

namespace tributary {

struct EngineMetrics;

// What pairing with a node gives.
struct NodeSession {
  TransportInfo transport;  // the node's
  SessionId session_id;
  SessionKeys keys;
  Epoch epoch;  // the node's incarnation
  std::string node_id;
};

// The control-plane call CpuAttention.Connect, behind an interface of its user.
class NodeConnector {
 public:
  virtual ~NodeConnector() = default;
  // Blocks the decode loop, so at most a second or two: UNAVAILABLE or DEADLINE_EXCEEDED then.
  // `local` is this worker's.
  virtual absl::StatusOr<NodeSession> Connect(const NodeEndpoint& node, const TransportInfo& local) = 0;
};

// Index of a node in RemoteNodes: stable, never reused.
using NodeIdx = uint32_t;
inline constexpr NodeIdx kNoNode = ~NodeIdx{0};

// What nodes say, after all checks of header and session. Called inside Poll() and Send().
class NodeListener {
 public:
  virtual ~NodeListener() = default;
  virtual void OnPartial(NodeIdx node, const FrameHeader& header, const PartialFrameView& partial) = 0;
  virtual void OnAck(NodeIdx node, const FrameHeader& header, const AckBody& ack) = 0;
  // The node refused the frame that Send() gave the sequence number error.rejected_frame_seq.
  virtual void OnRejected(NodeIdx node, const ErrorBody& error, std::string_view text) = 0;
  // An answer came whose payload was changed on the way: a partial, an acknowledgement, or the error frame that refuses
  // something. Its header is genuine and repeats step, layer and slot of what it answers.
  virtual void OnDamaged(NodeIdx node, const FrameHeader& header) = 0;
  // Once per session. UNAVAILABLE, with the node's id and the reason.
  virtual void OnNodeFailed(NodeIdx node, const absl::Status& status) = 0;
};

// What a status says of a refused frame: the error's name, and the node's words with everything unprintable escaped.
std::string RefusalText(const ErrorBody& error, std::string_view text);

struct RemoteNodesOptions {
  int64_t heartbeat_interval_ns = 500 * kNsPerMs;
  int64_t silence_timeout_ns = 3 * kNsPerS;
};

class RemoteNodes final : private FrameHandler {
 public:
  enum class State { kConnecting, kHealthy, kFailed };

  // All pointers but `metrics` outlive this.
  RemoteNodes(const RemoteNodesOptions& options, DataPlane* data_plane, NodeConnector* connector, const Clock* clock,
              NodeListener* listener, EngineMetrics* metrics);
  ~RemoteNodes() override;

  // The node of this endpoint, paired with if it is new, failed or of an older incarnation (which
  // fails, then). Errors: the connector's, FAILED_PRECONDITION for an incarnation that is not the
  // node's; each names the node.
  absl::StatusOr<NodeIdx> Acquire(const NodeEndpoint& endpoint);

  State state(NodeIdx node) const { return nodes_[node].state; }
  const std::string& node_id(NodeIdx node) const { return nodes_[node].endpoint.node_id; }
  // Why the node failed. REQUIRES: kFailed.
  const absl::Status& failure(NodeIdx node) const { return nodes_[node].failure; }
  size_t num_nodes() const { return nodes_.size(); }

  // Fills in session, sequence number and tags of `frame` (type, step_id, layer, slot and
  // timeout_us are the caller's) and sends it. Returns its frame_seq. A transport error fails the
  // node.
  absl::StatusOr<uint64_t> Send(NodeIdx node, FrameBuffer frame, SendClass send_class);

  // The sequence number of the next frame to this node.
  uint64_t next_frame_seq(NodeIdx node) const { return nodes_[node].next_frame_seq; }

  // Polls the data plane, sends heartbeats, finds silent nodes. Returns the number of events.
  int Poll();
  // Time that passes only while we poll; of the last Poll().
  int64_t patient_now_ns() const { return patience_.now_ns(); }

  uint64_t frames_rejected(FrameError reason) const { return rejected_[static_cast<size_t>(reason)]; }

 private:
  struct Node {
    NodeEndpoint endpoint;
    // The incarnations that this one has replaced, oldest first. They are random: none is greater than its predecessor.
    std::deque<uint64_t> earlier_incarnations;
    State state = State::kFailed;
    absl::Status failure;
    PeerId peer;
    SessionId session_id;
    FrameSeal incoming;
    FrameSeal outgoing;
    uint64_t next_frame_seq = 1;
    ReplayWindow replay;
    int64_t heard_ns = 0;      // patient time
    int64_t heartbeat_ns = 0;  // when the last one was sent, patient time
  };

  void OnFrame(std::span<const std::byte> header, std::span<const std::byte> payload) override;
  void OnPeerError(PeerId peer, const absl::Status& status) override;

  NodeIdx FindOrAdd(const NodeEndpoint& endpoint);
  absl::Status Pair(Node& node);
  // The live session that this header belongs to, or why there is none.
  FrameError FindSession(const FrameHeader& header, NodeIdx* node);
  FrameError Dispatch(NodeIdx node, const FrameHeader& header, std::span<const std::byte> payload);
  void Reject(FrameError reason);
  void OnBadPayload(NodeIdx node, const FrameHeader& header);
  void TellDamaged(NodeIdx node, const FrameHeader& header);
  void Fail(NodeIdx node, const std::string& reason);
  void SendHeartbeat(NodeIdx node);

  const RemoteNodesOptions options_;
  DataPlane* const data_plane_;
  NodeConnector* const connector_;
  const Clock* const clock_;
  NodeListener* const listener_;
  EngineMetrics* const metrics_;
  PatientClock patience_;
  std::vector<Node> nodes_;
  std::vector<PeerId> to_disconnect_;  // handlers may not disconnect
  std::array<uint64_t, kNumFrameErrors> rejected_{};
};

}  // namespace tributary
