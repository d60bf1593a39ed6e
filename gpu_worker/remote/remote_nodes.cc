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
// Heartbeats to a silent node wait in the transport: beyond so many they become as many times rarer.
constexpr uint32_t kManyOwedHeartbeats = 8;
// We may have been the ones who stood still: a node is silent only if polls, too, have come back with nothing.
constexpr uint32_t kMinPollsOwed = 4;
// A later sequence is better placed elsewhere than on a node that is silent for so long.
constexpr int64_t kNotHandedOutNs = kNsPerS;
constexpr int64_t kEndedIntervalNs = 10 * kNsPerMs;
// Of the slowest answer, at each heartbeat that was answered sooner: half of it is left after seven seconds.
constexpr double kSlownessKept = 0.95;

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
      metrics_(metrics),
      inbox_(std::make_shared<PairingInbox>(data_plane)) {
  patience_.Advance(clock_->NowNs());
}

RemoteNodes::~RemoteNodes() {
  inbox_->Close();
  for (const Node& node : nodes_) {
    if (node.state != State::kFailed && node.state != State::kPairing) data_plane_->Disconnect(node.peer);
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
  } else if (silent_ns(idx) >= kNotHandedOutNs) {
    return absl::UnavailableError(fmt::format("CPU attention node '{}' at {} is silent for {:.1f} s; take another one",
                                              endpoint.node_id, endpoint.control_address,
                                              SecondsFromNs(silent_ns(idx))));
  } else if (node.state != State::kFailed) {
    return idx;
  }
  node.endpoint = endpoint;
  BeginPairing(idx);
  TakePaired();
  // It may have failed already, at its first frame, too; whoever asked is not among those told of failures yet.
  if (nodes_[idx].state == State::kFailed) return nodes_[idx].failure;
  return idx;
}

void RemoteNodes::BeginPairing(NodeIdx idx) {
  Node& node = nodes_[idx];
  SetState(node, State::kPairing);
  node.failure = absl::OkStatus();
  node.pairing = ++last_pairing_;
  connector_->BeginConnect(node.endpoint, data_plane_->info(),
                           [inbox = inbox_, attempt = node.pairing](absl::StatusOr<NodeSession> session) {
                             inbox->Put({attempt, std::move(session)});
                           });
}

void RemoteNodes::TakePaired() {
  for (PairingInbox::Pairing& pairing : inbox_->TakeAll()) {
    const auto node = std::find_if(nodes_.begin(), nodes_.end(), [&](const Node& n) {
      return n.state == State::kPairing && n.pairing == pairing.attempt;
    });
    if (node == nodes_.end()) continue;  // it has a later incarnation by now
    const auto idx = static_cast<NodeIdx>(node - nodes_.begin());
    if (const absl::Status status = EndPairing(*node, std::move(pairing.session)); !status.ok()) {
      Fail(idx, status);
    } else {
      SendHeartbeat(idx);
    }
  }
}

absl::Status RemoteNodes::EndPairing(Node& node, absl::StatusOr<NodeSession> session) {
  const std::string name = fmt::format("CPU attention node '{}'", node.endpoint.node_id);
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
  SetState(node, State::kConnecting);
  node.peer = *peer;
  node.process = std::move(session->process);
  node.session_id = session->session_id;
  node.incoming = FrameSeal(session->keys, FrameDirection::kToWorker);
  node.outgoing = FrameSeal(session->keys, FrameDirection::kToNode);
  node.next_frame_seq = 1;
  node.replay = ReplayWindow();
  node.heard_ns = patience_.now_ns();
  node.owed_since_ns = kNothing;
  node.num_owed = node.num_polls_owed = 0;
  node.slowest_answer_ns = kFirstAnswerNs;
  LOG_INFO("{} connected over {} {}", name, session->transport.name, session->transport.release);
  return absl::OkStatus();
}

void RemoteNodes::FindEnded() {
  if (patience_.now_ns() - looked_for_ended_ns_ < kEndedIntervalNs) return;
  looked_for_ended_ns_ = patience_.now_ns();
  for (NodeIdx i = 0; i < nodes_.size(); ++i) {
    const bool is_live = nodes_[i].state != State::kFailed && nodes_[i].state != State::kPairing;
    if (is_live && nodes_[i].process != nullptr && nodes_[i].process->HasEnded()) Fail(i, "its process has ended");
  }
}

absl::StatusOr<uint64_t> RemoteNodes::Send(NodeIdx idx, FrameBuffer frame, SendClass send_class) {
  Node& node = nodes_[idx];
  if (node.state == State::kFailed) return node.failure;
  if (node.state == State::kPairing) {
    return absl::UnavailableError(fmt::format("CPU attention node '{}' is not connected yet", node.endpoint.node_id));
  }
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
  TakePaired();
  FindEnded();
  for (const PeerId peer : std::exchange(to_disconnect_, {})) data_plane_->Disconnect(peer);
  const int64_t now_ns = patience_.now_ns();
  for (NodeIdx i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].state == State::kFailed || nodes_[i].state == State::kPairing) continue;
    FindSilence(i, events == 0);
    const int64_t interval_ns =
        options_.heartbeat_interval_ns * (nodes_[i].num_owed < kManyOwedHeartbeats ? 1 : kManyOwedHeartbeats);
    if (now_ns - nodes_[i].heartbeat_ns >= interval_ns) SendHeartbeat(i);
  }
  return events;
}

void RemoteNodes::Await(NodeIdx idx) {
  const Node& node = nodes_[idx];
  if (node.state == State::kFailed || node.state == State::kPairing || node.owed_since_ns != kNothing) return;
  if (patience_.now_ns() - node.heard_ns >= options_.probe_after_ns) SendHeartbeat(idx);
}

int64_t RemoteNodes::silent_ns(NodeIdx node) const {
  return nodes_[node].state == State::kSilent ? patience_.now_ns() - nodes_[node].owed_since_ns : 0;
}

int64_t RemoteNodes::PatienceWith(const Node& node) const {
  return std::clamp(2 * node.slowest_answer_ns, options_.min_silence_ns, options_.max_silence_ns);
}

void RemoteNodes::FindSilence(NodeIdx idx, bool polled_nothing) {
  Node& node = nodes_[idx];
  if (node.owed_since_ns == kNothing || node.state == State::kSilent) return;
  if (polled_nothing) ++node.num_polls_owed;
  const int64_t owed_ns = patience_.now_ns() - node.owed_since_ns;
  if (node.num_polls_owed < kMinPollsOwed || owed_ns < PatienceWith(node)) return;
  SetState(node, State::kSilent);
  LOG_INFO("CPU attention node '{}' is silent: no answer to a heartbeat for {:.3f} s; what waits for it is parked",
           node.endpoint.node_id, SecondsFromNs(owed_ns));
  listener_->OnNodeSilent(idx, absl::UnavailableError(fmt::format("CPU attention node '{}' is silent for {:.3f} s",
                                                                  node.endpoint.node_id, SecondsFromNs(owed_ns))));
}

void RemoteNodes::SetState(Node& node, State state) {
  if (node.state == State::kSilent) --num_silent_;
  if (state == State::kSilent) ++num_silent_;
  node.state = state;
}

void RemoteNodes::Heard(Node& node) {
  node.heard_ns = patience_.now_ns();
  if (node.owed_since_ns != kNothing) {
    const int64_t owed_ns = node.heard_ns - node.owed_since_ns;
    // A silence that was called too soon doubles the patience; one of hours does no more.
    const int64_t answer_ns = std::min(owed_ns, PatienceWith(node));
    const double kept =
        node.state == State::kConnecting ? 0 : kSlownessKept * static_cast<double>(node.slowest_answer_ns);
    node.slowest_answer_ns = std::max(answer_ns, static_cast<int64_t>(kept));
    if (node.state == State::kSilent) {
      LOG_INFO("CPU attention node '{}' is heard again after {:.3f} s", node.endpoint.node_id, SecondsFromNs(owed_ns));
      node.recovered_ns = node.heard_ns;
    }
  }
  node.owed_since_ns = kNothing;
  node.num_owed = node.num_polls_owed = 0;
  SetState(node, State::kHealthy);
}

void RemoteNodes::SendHeartbeat(NodeIdx node) {
  nodes_[node].heartbeat_ns = patience_.now_ns();
  absl::StatusOr<FrameBuffer> frame = data_plane_->AllocateFrame(kHeartbeatPayloadBytes);
  if (!frame.ok()) return;  // all buffers are in flight; the next interval is soon
  frame->header() = FrameHeader{.type = static_cast<uint8_t>(FrameType::kHeartbeat)};
  WriteHeartbeat({.sent_ns = static_cast<uint64_t>(clock_->NowNs()), .is_reply = 0}, frame->payload());
  if (nodes_[node].owed_since_ns == kNothing) nodes_[node].owed_since_ns = patience_.now_ns();
  ++nodes_[node].num_owed;
  (void)Send(node, *std::move(frame), SendClass::kEager);
}

FrameError RemoteNodes::FindSession(const FrameHeader& header, NodeIdx* found) {
  // Nodes choose session ids on their own, so two may choose alike: the tag decides.
  FrameError error = FrameError::kUnknownSession;
  for (NodeIdx i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    if (node.state == State::kFailed || node.state == State::kPairing) continue;
    if (node.session_id.value != header.session_id) continue;
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
  Heard(node);
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
    const bool is_live = nodes_[i].state != State::kFailed && nodes_[i].state != State::kPairing;
    if (is_live && nodes_[i].peer == peer) {
      Fail(i, fmt::format("its connection broke: {}", std::string(status.message())));
    }
  }
}

void RemoteNodes::Reject(FrameError reason) {
  ++rejected_[static_cast<size_t>(reason)];
  if (metrics_ != nullptr) metrics_->frames_rejected[static_cast<size_t>(reason)].Increment();
}

void RemoteNodes::Fail(NodeIdx idx, const std::string& reason) {
  Fail(idx,
       absl::UnavailableError(fmt::format("CPU attention node '{}' failed: {}", nodes_[idx].endpoint.node_id, reason)));
}

void RemoteNodes::Fail(NodeIdx idx, const absl::Status& status) {
  Node& node = nodes_[idx];
  if (node.state == State::kFailed) return;
  if (node.state != State::kPairing) to_disconnect_.push_back(node.peer);
  SetState(node, State::kFailed);
  node.failure = status;
  node.process = nullptr;
  LOG_WARN("{}", std::string(node.failure.message()));
  listener_->OnNodeFailed(idx, node.failure);
}

}  // namespace tributary
