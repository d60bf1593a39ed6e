// The GPU worker's sessions with CPU attention nodes: pairs with them, seals frames, checks what comes back, and sends
// heartbeats.
//
// A node is in one of five states:
//
//   pairing      The control plane is asked for a session, which nobody waits for.
//   connecting   It is paired with; nothing has come over the data plane yet.
//   healthy      It has answered the last heartbeat, or there was time left to.
//   silent       It owes an answer to a heartbeat for longer than is usual for it. What it holds is not lost: with its
//                next frame it is healthy again.
//   failed       Its endpoint failed, its process ended, or it dropped the session.
//
// Silence alone never fails a node. Its usual answer is learnt: twice the slowest one of the last half minute, within
// bounds, and twice as long after each silence, so that a loaded host is not called silent at each hiccup. A failed
// node stays failed for the sequences that used it; Acquire() for a later one pairs anew.
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
#include "base/patient_clock.h"
#include "gpu_worker/remote/node_connector.h"
#include "gpu_worker/remote/pairing_inbox.h"
#include "gpu_worker/sequence/sequence_plan.h"
#include "transport/data_plane.h"
#include "wire/frame.h"
#include "wire/frame_seal.h"
#include "wire/replay_window.h"

namespace tributary {

struct EngineMetrics;

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
  // It has become silent: UNAVAILABLE, with the node's id.
  virtual void OnNodeSilent(NodeIdx node, const absl::Status& status) = 0;
  // Once per session. UNAVAILABLE, with the node's id and the reason.
  virtual void OnNodeFailed(NodeIdx node, const absl::Status& status) = 0;
};

// What a status says of a refused frame: the error's name, and the node's words with everything unprintable escaped.
std::string RefusalText(const ErrorBody& error, std::string_view text);

struct RemoteNodesOptions {
  int64_t heartbeat_interval_ns = 500 * kNsPerMs;
  // A node that somebody waits for is sent a heartbeat once nothing has come from it for so long.
  int64_t probe_after_ns = 10 * kNsPerMs;
  // Bounds of how long a node may owe the answer to a heartbeat before it is silent.
  int64_t min_silence_ns = 60 * kNsPerMs;
  int64_t max_silence_ns = 3 * kNsPerS;
};

class RemoteNodes final : private FrameHandler {
 public:
  enum class State { kPairing, kConnecting, kHealthy, kSilent, kFailed };

  // All pointers but `metrics` outlive this.
  RemoteNodes(const RemoteNodesOptions& options, DataPlane* data_plane, NodeConnector* connector, const Clock* clock,
              NodeListener* listener, EngineMetrics* metrics);
  ~RemoteNodes() override;

  // The node of this endpoint; pairing begins if it is new, failed or of an older incarnation (which
  // fails, then), and nothing can be sent until it is over. Errors: the connector's, FAILED_PRECONDITION
  // for an incarnation that is not the node's, UNAVAILABLE for a node that is silent for a second; each
  // names the node. Those that come later fail the node.
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
  // The caller waits for this node: whether it is there at all is to be found out soon.
  void Await(NodeIdx node);
  size_t num_silent() const { return num_silent_; }
  // When its last silence ended, patient time; 0 if there was none.
  int64_t recovered_ns(NodeIdx node) const { return nodes_[node].recovered_ns; }
  // How long it has been silent; 0 in any other state.
  int64_t silent_ns(NodeIdx node) const;
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
    uint64_t pairing = 0;  // the number of the last attempt
    PeerId peer;
    std::shared_ptr<PeerProcess> process;  // null: unknown
    SessionId session_id;
    FrameSeal incoming;
    FrameSeal outgoing;
    uint64_t next_frame_seq = 1;
    ReplayWindow replay;
    // These are in patient time.
    int64_t heard_ns = 0;
    int64_t heartbeat_ns = 0;          // when the last one was sent
    int64_t owed_since_ns = kNothing;  // the oldest heartbeat since which nothing has come
    uint32_t num_owed = 0;             // heartbeats since then
    uint32_t num_polls_owed = 0;       // that brought nothing at all, since then
    int64_t recovered_ns = 0;
    int64_t slowest_answer_ns = kFirstAnswerNs;
  };
  static constexpr int64_t kNothing = -1;
  // Of a node of which nothing is known: the first frames also build the connection.
  static constexpr int64_t kFirstAnswerNs = 500 * kNsPerMs;

  void OnFrame(std::span<const std::byte> header, std::span<const std::byte> payload) override;
  void OnPeerError(PeerId peer, const absl::Status& status) override;

  NodeIdx FindOrAdd(const NodeEndpoint& endpoint);
  void BeginPairing(NodeIdx node);
  // Sessions that have arrived.
  void TakePaired();
  absl::Status EndPairing(Node& node, absl::StatusOr<NodeSession> session);
  // Processes of this host that have ended.
  void FindEnded();
  // The live session that this header belongs to, or why there is none.
  FrameError FindSession(const FrameHeader& header, NodeIdx* node);
  FrameError Dispatch(NodeIdx node, const FrameHeader& header, std::span<const std::byte> payload);
  void Reject(FrameError reason);
  void OnBadPayload(NodeIdx node, const FrameHeader& header);
  void TellDamaged(NodeIdx node, const FrameHeader& header);
  void Fail(NodeIdx node, const std::string& reason);
  void Fail(NodeIdx node, const absl::Status& status);
  void SendHeartbeat(NodeIdx node);
  void Heard(Node& node);
  void SetState(Node& node, State state);
  // For how long it may owe an answer.
  int64_t PatienceWith(const Node& node) const;
  void FindSilence(NodeIdx node, bool polled_nothing);

  const RemoteNodesOptions options_;
  DataPlane* const data_plane_;
  NodeConnector* const connector_;
  const Clock* const clock_;
  NodeListener* const listener_;
  EngineMetrics* const metrics_;
  PatientClock patience_;
  std::vector<Node> nodes_;
  size_t num_silent_ = 0;
  const std::shared_ptr<PairingInbox> inbox_;  // shared with pairings that are under way
  uint64_t last_pairing_ = 0;
  int64_t looked_for_ended_ns_ = 0;    // patient time
  std::vector<PeerId> to_disconnect_;  // handlers may not disconnect
  std::array<uint64_t, kNumFrameErrors> rejected_{};
};

}  // namespace tributary
