#include "transport/inproc/inproc_data_plane.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <tuple>

#include "base/limits.h"
#include "fmt/format.h"

namespace tributary {

InprocDataPlane::InprocDataPlane(std::shared_ptr<InprocNetwork::Hub> hub, std::shared_ptr<InprocNode> node,
                                 const InprocOptions& options)
    : hub_(std::move(hub)),
      node_(std::move(node)),
      options_(options),
      info_{.name = "inproc", .release = "1", .transports = "inproc", .address = node_->address} {}

InprocDataPlane::~InprocDataPlane() {
  MutexLock lock(&hub_->mutex);
  hub_->KillNode(*node_);
  // The node stays referenced by frames of its peers; its own references would form cycles.
  node_->peers.clear();
  node_->inbox.clear();
  node_->outbox.clear();
}

absl::StatusOr<PeerId> InprocDataPlane::Connect(std::string_view address) {
  if (address.empty()) {
    return absl::InvalidArgumentError("peer address is empty; pass the peer's TransportInfo.address");
  }
  MutexLock lock(&hub_->mutex);
  const PeerId id(node_->next_peer_id++);
  InprocPeer& peer = node_->peers[id.value];
  peer.node = hub_->Find(address);
  if (peer.node == nullptr) {
    peer.failed = true;
    node_->peer_errors.emplace_back(id,
                                    absl::UnavailableError(fmt::format("no data plane has the address '{}'", address)));
  }
  return id;
}

void InprocDataPlane::Disconnect(PeerId peer) {
  MutexLock lock(&hub_->mutex);
  const auto it = node_->peers.find(peer.value);
  if (it == node_->peers.end()) return;
  if (it->second.node != nullptr) hub_->DropTransit(node_.get(), it->second.node.get());
  std::erase_if(node_->peer_errors, [&](const auto& error) { return error.first == peer; });
  node_->peers.erase(it);
}

absl::StatusOr<FrameBuffer> InprocDataPlane::AllocateFrame(size_t payload_bytes) {
  if (payload_bytes > limits::kMaxFramePayloadBytes) {
    return absl::InvalidArgumentError(
        fmt::format("payload of {} bytes is beyond the limit of {}", payload_bytes, limits::kMaxFramePayloadBytes));
  }
  const uint32_t in_flight = node_->frames_in_flight.fetch_add(1, std::memory_order_relaxed);
  if (in_flight >= options_.max_frames_in_flight) {
    node_->frames_in_flight.fetch_sub(1, std::memory_order_relaxed);
    return absl::ResourceExhaustedError(fmt::format("all {} frames are in flight; poll, then try again", in_flight));
  }
  FrameMemory memory = AllocateFrameMemory(kFrameHeaderBytes + payload_bytes);
  new (memory.get()) FrameHeader();
  return FrameBuffer(this, memory.release(), payload_bytes);
}

void InprocDataPlane::ReleaseFrame(std::byte* frame) {
  FrameMemory memory(frame);
  node_->frames_in_flight.fetch_sub(1, std::memory_order_relaxed);
}

absl::Status InprocDataPlane::Send(PeerId peer, FrameBuffer frame, SendClass send_class) {
  MutexLock lock(&hub_->mutex);
  const auto it = node_->peers.find(peer.value);
  if (it == node_->peers.end()) {
    return absl::UnavailableError(fmt::format("peer {} is unknown; connect first", peer.value));
  }
  if (it->second.reported || !node_->alive) {
    return absl::UnavailableError(fmt::format("peer {} has failed; connect again", peer.value));
  }
  InprocFrame out;
  out.bytes = frame.bytes().size();
  out.memory.reset(frame.Release());
  out.sender = node_;
  out.receiver = it->second.node;
  node_->counters.frames_sent += 1;
  node_->counters.bytes_sent += out.bytes;
  if (it->second.failed) {  // as on a real network, where the error shows only later
    ++hub_->stats.lost;
    hub_->Drop(out);
    return absl::OkStatus();
  }
  hub_->Route(std::move(out));
  return absl::OkStatus();
}

std::vector<InprocFrame> InprocDataPlane::TakeVisible() {
  const int64_t now_ns = hub_->clock->NowNs();
  const auto visible = [&](const InprocFrame& frame) {
    return frame.due_ns <= now_ns && frame.due_poll < node_->num_polls;
  };
  std::vector<InprocFrame>& inbox = node_->inbox;
  const auto taken =
      std::stable_partition(inbox.begin(), inbox.end(), [&](const InprocFrame& frame) { return !visible(frame); });
  std::vector<InprocFrame> frames(std::make_move_iterator(taken), std::make_move_iterator(inbox.end()));
  inbox.erase(taken, inbox.end());
  std::sort(frames.begin(), frames.end(), [](const InprocFrame& a, const InprocFrame& b) {
    return std::tie(a.due_ns, a.due_poll, a.order) < std::tie(b.due_ns, b.due_poll, b.order);
  });
  return frames;
}

int InprocDataPlane::Poll(FrameHandler& handler) {
  std::vector<InprocFrame> frames;
  std::vector<std::pair<PeerId, absl::Status>> errors;
  {
    MutexLock lock(&hub_->mutex);
    if (node_->frozen || !node_->alive) return 0;
    ++node_->num_polls;
    frames = TakeVisible();
    errors = std::exchange(node_->peer_errors, {});
    for (const auto& [id, status] : errors) node_->peers[id.value].reported = true;
    node_->counters.endpoint_errors += errors.size();
    node_->counters.frames_received += frames.size();
    for (const InprocFrame& frame : frames) node_->counters.bytes_received += frame.bytes;
    hub_->stats.delivered += frames.size();
  }
  for (InprocFrame& frame : frames) {
    // An odd address and no slack: what a transport may do to a receiver, it does.
    FrameMemory received = AllocateFrameMemory(frame.bytes + 1);
    std::byte* bytes = received.get() + 1;
    std::memcpy(bytes, frame.memory.get(), frame.bytes);
    hub_->Drop(frame);
    handler.OnFrame({bytes, kFrameHeaderBytes}, {bytes + kFrameHeaderBytes, frame.bytes - kFrameHeaderBytes});
  }
  for (const auto& [id, status] : errors) handler.OnPeerError(id, status);
  return static_cast<int>(frames.size() + errors.size());
}

void InprocDataPlane::WaitForEvent(int64_t timeout_ns) {
  const auto end = WaitEnd(std::clamp<int64_t>(timeout_ns, 0, kNsPerMs));
  MutexLock lock(&hub_->mutex);
  while (!node_->woken && !hub_->HasVisible(*node_) && node_->event.WaitUntil(&hub_->mutex, end)) {
  }
  node_->woken = false;
}

void InprocDataPlane::Wake() {
  MutexLock lock(&hub_->mutex);
  node_->woken = true;
  node_->event.NotifyAll();
}

DataPlaneCounters InprocDataPlane::counters() const {
  MutexLock lock(&hub_->mutex);
  return node_->counters;
}

}  // namespace tributary
