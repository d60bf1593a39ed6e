#include "gpu_worker/remote/remote_nodes.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/outside_text.h"
#include "base/status.h"
#include "fmt/format.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "wire/frame_builder.h"

namespace tributary {
namespace {

// More than a placement that is still on its way can be behind.
constexpr size_t kMaxEarlierIncarnations = 16;

}  // namespace

std::string RefusalText(const ErrorBody& error, std::string_view text) {
  const std::string name(FrameErrorName(static_cast<FrameError>(error.error)));
  return text.empty() ? name : fmt::format("{} ({})", name, Printable(text));
}

RemoteNodes::RemoteNodes(const RemoteNodesOptions& options, DataPlane* data_plane, NodeConnector* connector,
                         const Clock* clock, NodeListener* listener, EngineMetrics* metrics)
    : options_(options),
      data_plane_(data_plane),
      connector_(connector),
      clock_(clock),
      listener_(listener),
      metrics_(metrics) {
  patience_.Advance(clock_->NowNs());
}

RemoteNodes::~RemoteNodes() {
  for (const Node& node : nodes_) {
    if (node.state != State::kFailed) data_plane_->Disconnect(node.peer);
  }
  for (const PeerId peer : to_disconnect_) data_plane_->Disconnect(peer);
}

NodeIdx RemoteNodes::FindOrAdd(const NodeEndpoint& endpoint) {
  for (NodeIdx i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].endpoint.node_id == endpoint.node_id) return i;
  }
  nodes_.emplace_back();
  nodes_.back().endpoint = endpoint;
  nodes_.back().failure = absl::UnavailableError("not yet connected");
  return static_cast<NodeIdx>(nodes_.size() - 1);
}

absl::StatusOr<NodeIdx> RemoteNodes::Acquire(const NodeEndpoint& endpoint) {
  const NodeIdx idx = FindOrAdd(endpoint);
  Node& node = nodes_[idx];
  std::deque<uint64_t>& earlier = node.earlier_incarnations;
  if (std::find(earlier.begin(), earlier.end(), endpoint.incarnation) != earlier.end()) {
    return absl::FailedPreconditionError(fmt::format(
        "CPU attention node '{}' has incarnation {}, the route names the older {}: place the sequence again",
        endpoint.node_id, node.endpoint.incarnation, endpoint.incarnation));
  }
  if (endpoint.incarnation != node.endpoint.incarnation) {
    if (node.state != State::kFailed) Fail(idx, fmt::format("it was restarted (incarnation {})", endpoint.incarnation));
    earlier.push_back(node.endpoint.incarnation);
    if (earlier.size() > kMaxEarlierIncarnations) earlier.pop_front();
  } else if (node.state != State::kFailed) {
    return idx;
  }
  node.endpoint = endpoint;
  TRIBUTARY_RETURN_IF_ERROR(Pair(node));
  SendHeartbeat(idx);
  // The first frame may show that nobody is there; whoever asked is not among those told of failures yet.
  if (node.state == State::kFailed) return node.failure;
  return idx;
}

absl::Status RemoteNodes::Pair(Node& node) {
  const std::string name = fmt::format("CPU attention node '{}'", node.endpoint.node_id);
  absl::StatusOr<NodeSession> session = connector_->Connect(node.endpoint, data_plane_->info());
  if (!session.ok()) {
    return absl::Status(session.status().code(),
                        fmt::format("{} at {} cannot be connected: {}", name, node.endpoint.control_address,
                                    std::string(session.status().message())));
  }
  if (session->epoch.value != node.endpoint.incarnation) {
    return absl::FailedPreconditionError(
        fmt::format("{} has incarnation {}, the route says {}: place the sequence again", name, session->epoch.value,
                    node.endpoint.incarnation));
  }
  absl::StatusOr<PeerId> peer = data_plane_->Connect(session->transport.address);
  if (!peer.ok()) {
    return absl::Status(peer.status().code(),
                        fmt::format("{}: no data plane to it: {}", name, std::string(peer.status().message())));
  }
  node.state = State::kConnecting;
  node.failure = absl::OkStatus();
  node.peer = *peer;
  node.session_id = session->session_id;
  node.incoming = FrameSeal(session->keys, FrameDirection::kToWorker);
  node.outgoing = FrameSeal(session->keys, FrameDirection::kToNode);
  node.next_frame_seq = 1;
  node.replay = ReplayWindow();
  // Pairing may have taken long, and nobody was polled meanwhile.
  node.heard_ns = patience_.Advance(clock_->NowNs());
  LOG_INFO("{} connected over {} {}", name, session->transport.name, session->transport.release);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> RemoteNodes::Send(NodeIdx idx, FrameBuffer frame, SendClass send_class) {
  Node& node = nodes_[idx];
  if (node.state == State::kFailed) return node.failure;
  FrameHeader& header = frame.header();
  header.flags = 0;
  header.session_id = node.session_id.value;
  header.frame_seq = node.next_frame_seq++;
  node.outgoing.Seal(header, frame.payload());
  const uint64_t frame_seq = header.frame_seq;
  if (absl::Status sent = data_plane_->Send(node.peer, std::move(frame), send_class); !sent.ok()) {
    Fail(idx, fmt::format("sending to it failed: {}", std::string(sent.message())));
    return nodes_[idx].failure;
  }
  return frame_seq;
}

int RemoteNodes::Poll() {
  patience_.Advance(clock_->NowNs());
  const int events = data_plane_->Poll(*this);
  for (const PeerId peer : std::exchange(to_disconnect_, {})) data_plane_->Disconnect(peer);
  const int64_t now_ns = patience_.now_ns();
  for (NodeIdx i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].state == State::kFailed) continue;
    if (now_ns - nodes_[i].heard_ns >= options_.silence_timeout_ns) {
      Fail(i, fmt::format("nothing heard from it for {:.1f} s", SecondsFromNs(now_ns - nodes_[i].heard_ns)));
    } else if (now_ns - nodes_[i].heartbeat_ns >= options_.heartbeat_interval_ns) {
      SendHeartbeat(i);
    }
  }
  return events;
}

void RemoteNodes::SendHeartbeat(NodeIdx node) {
  nodes_[node].heartbeat_ns = patience_.now_ns();
  absl::StatusOr<FrameBuffer> frame = data_plane_->AllocateFrame(kHeartbeatPayloadBytes);
  if (!frame.ok()) return;  // all buffers are in flight; the next interval is soon
  frame->header() = FrameHeader{.type = static_cast<uint8_t>(FrameType::kHeartbeat)};
  WriteHeartbeat({.sent_ns = static_cast<uint64_t>(clock_->NowNs()), .is_reply = 0}, frame->payload());
  (void)Send(node, *std::move(frame), SendClass::kEager);
}

FrameError RemoteNodes::FindSession(const FrameHeader& header, NodeIdx* found) {
  // Nodes choose session ids on their own, so two may choose alike: the tag decides.
  FrameError error = FrameError::kUnknownSession;
  for (NodeIdx i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    if (node.state == State::kFailed || node.session_id.value != header.session_id) continue;
    if (!node.incoming.VerifyHeader(header)) {
      error = FrameError::kBadAuthTag;
      continue;
    }
    *found = i;
    return FrameError::kOk;
  }
  return error;
}

void RemoteNodes::OnFrame(std::span<const std::byte> header_bytes, std::span<const std::byte> payload) {
  FrameHeader header;
  FrameError error = DecodeHeader(header_bytes, payload.size(), &header);
  if (error != FrameError::kOk) return Reject(error);
  NodeIdx idx = kNoNode;
  error = FindSession(header, &idx);
  if (error != FrameError::kOk) return Reject(error);
  Node& node = nodes_[idx];
  if (!node.replay.Accept(header.frame_seq)) return Reject(FrameError::kReplayed);
  node.heard_ns = patience_.now_ns();
  node.state = State::kHealthy;
  if (!node.incoming.VerifyPayload(header, payload)) return OnBadPayload(idx, header);
  error = Dispatch(idx, header, payload);
  if (error != FrameError::kOk) Reject(error);
}

FrameError RemoteNodes::Dispatch(NodeIdx idx, const FrameHeader& header, std::span<const std::byte> payload) {
  switch (static_cast<FrameType>(header.type)) {
    case FrameType::kPartial: {
      PartialFrameView partial;
      const FrameError error = PartialFrameView::Decode(payload, &partial);
      if (error == FrameError::kOk) listener_->OnPartial(idx, header, partial);
      return error;
    }
    case FrameType::kAck: {
      AckBody ack;
      const FrameError error = DecodeAck(payload, &ack);
      if (error == FrameError::kOk) listener_->OnAck(idx, header, ack);
      return error;
    }
    case FrameType::kError: {
      ErrorBody rejected;
      std::string_view text;
      const FrameError error = DecodeError(payload, &rejected, &text);
      if (error != FrameError::kOk) return error;
      if (rejected.error == static_cast<uint32_t>(FrameError::kUnknownSession)) {
        Fail(idx, "it dropped the session");
      } else {
        listener_->OnRejected(idx, rejected, text);
      }
      return FrameError::kOk;
    }
    case FrameType::kHeartbeat: {
      HeartbeatBody heartbeat;
      return DecodeHeartbeat(payload, &heartbeat);
    }
    case FrameType::kQuery:
    case FrameType::kSpill:
      break;  // only workers send these
  }
  return FrameError::kBadType;
}

void RemoteNodes::OnBadPayload(NodeIdx idx, const FrameHeader& header) {
  Reject(FrameError::kBadPayload);
  // Error frames are never answered, so that no two sides echo.
  if (static_cast<FrameType>(header.type) != FrameType::kError) TellDamaged(idx, header);
  listener_->OnDamaged(idx, header);
}

void RemoteNodes::TellDamaged(NodeIdx idx, const FrameHeader& header) {
  const std::string text = fmt::format("the worker refused frame {} of type {}: {}", header.frame_seq, header.type,
                                       std::string(FrameErrorName(FrameError::kBadPayload)));
  absl::StatusOr<FrameBuffer> frame = data_plane_->AllocateFrame(ErrorPayloadBytes(text));
  if (!frame.ok()) return;
  frame->header() = FrameHeader{.type = static_cast<uint8_t>(FrameType::kError),
                                .step_id = header.step_id,
                                .layer = header.layer,
                                .slot = header.slot};
  WriteError({.error = static_cast<uint32_t>(FrameError::kBadPayload),
              .rejected_type = header.type,
              .rejected_frame_seq = header.frame_seq},
             text, frame->payload());
  (void)Send(idx, *std::move(frame), SendClass::kEager);
}

void RemoteNodes::OnPeerError(PeerId peer, const absl::Status& status) {
  for (NodeIdx i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].state != State::kFailed && nodes_[i].peer == peer) {
      Fail(i, fmt::format("its connection broke: {}", std::string(status.message())));
    }
  }
}

void RemoteNodes::Reject(FrameError reason) {
  ++rejected_[static_cast<size_t>(reason)];
  if (metrics_ != nullptr) metrics_->frames_rejected[static_cast<size_t>(reason)].Increment();
}

void RemoteNodes::Fail(NodeIdx idx, const std::string& reason) {
  Node& node = nodes_[idx];
  if (node.state == State::kFailed) return;
  node.state = State::kFailed;
  node.failure =
      absl::UnavailableError(fmt::format("CPU attention node '{}' failed: {}", node.endpoint.node_id, reason));
  to_disconnect_.push_back(node.peer);
  LOG_WARN("{}", std::string(node.failure.message()));
  listener_->OnNodeFailed(idx, node.failure);
}

}  // namespace tributary
