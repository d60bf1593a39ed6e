#include "transport/inproc/inproc_network.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <span>

#include "base/check.h"
#include "fmt/format.h"
#include "transport/inproc/inproc_data_plane.h"
#include "transport/inproc/inproc_hub.h"

namespace tributary {
namespace {

uint64_t Fnv1a(uint64_t hash, std::string_view text) {
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

double Unit(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

uint64_t UniformUpTo(std::mt19937_64& random, uint64_t max) { return max == 0 ? 0 : random() % (max + 1); }

// Changes a run of up to max_burst_bits bits. Returns the first one's number.
uint64_t Corrupt(std::mt19937_64& random, std::span<std::byte> frame, uint32_t max_burst_bits) {
  const uint64_t num_bits = frame.size() * 8;
  const uint64_t burst_bits = std::min(num_bits, 1 + UniformUpTo(random, max_burst_bits - 1));
  const uint64_t begin = UniformUpTo(random, num_bits - burst_bits);
  const uint64_t between = burst_bits > 2 ? random() : 0;
  for (uint64_t i = 0; i < burst_bits; ++i) {
    const bool flips = i == 0 || i + 1 == burst_bits || ((between >> i) & 1) != 0;
    if (flips) frame[(begin + i) / 8] ^= std::byte{1} << ((begin + i) % 8);
  }
  return begin;
}

}  // namespace

FrameMemory AllocateFrameMemory(size_t bytes) {
  void* memory = nullptr;
  TRIBUTARY_CHECK(posix_memalign(&memory, 64, std::max<size_t>(bytes, 1)) == 0);
  return FrameMemory(static_cast<std::byte*>(memory));
}

InprocNetwork::Hub::Link& InprocNetwork::Hub::LinkBetween(const std::string& from, const std::string& to) {
  const uint64_t link_seed = Fnv1a(Fnv1a(Fnv1a(seed ^ 0xcbf29ce484222325, from), "\n"), to);
  return links.try_emplace({from, to}, link_seed).first->second;
}

std::shared_ptr<InprocNode> InprocNetwork::Hub::Find(std::string_view address) const {
  for (const auto& node : nodes) {
    if (node->address == address) return node;
  }
  return nullptr;
}

void InprocNetwork::Hub::Drop(InprocFrame& frame) {
  if (frame.counted) frame.sender->frames_in_flight.fetch_sub(1, std::memory_order_relaxed);
  frame.memory.reset();
}

void InprocNetwork::Hub::Route(InprocFrame frame) {
  if (frame.sender->frozen) {
    frame.sender->outbox.push_back(std::move(frame));
    return;
  }
  Link& link = LinkBetween(frame.sender->address, frame.receiver->address);
  const InprocFaults& active = link.faults ? *link.faults : faults;
  // Every frame draws all four, so that changing one probability leaves the other faults where they
  // were.
  const bool lost = Unit(link.random) < active.loss;
  const bool duplicated = Unit(link.random) < active.duplicate;
  const bool corrupted = Unit(link.random) < active.corrupt;
  const bool disconnected = Unit(link.random) < active.disconnect;
  if (disconnected) {
    ++stats.disconnected;
    const auto sender = frame.sender;
    const auto receiver = frame.receiver;
    Drop(frame);
    ++stats.lost;
    BreakLink(sender, receiver);
    return;
  }
  if (lost || !frame.receiver->alive) {
    ++stats.lost;
    Drop(frame);
    return;
  }
  if (duplicated) {
    ++stats.duplicated;
    InprocFrame copy;
    copy.memory = AllocateFrameMemory(frame.bytes);
    std::memcpy(copy.memory.get(), frame.memory.get(), frame.bytes);
    copy.bytes = frame.bytes;
    copy.sender = frame.sender;
    copy.receiver = frame.receiver;
    copy.counted = false;
    Enqueue(link, active, std::move(copy));
  }
  if (corrupted) {
    ++stats.corrupted;
    const uint64_t first_bit = Corrupt(link.random, {frame.memory.get(), frame.bytes}, active.max_burst_bits);
    if (first_bit < kFrameHeaderBytes * 8) ++stats.corrupted_headers;
  }
  Enqueue(link, active, std::move(frame));
}

void InprocNetwork::Hub::Enqueue(Link& link, const InprocFaults& active, InprocFrame frame) {
  const int64_t spread_ns = std::max<int64_t>(0, active.max_delay_ns - active.min_delay_ns);
  const int64_t delay_ns =
      active.min_delay_ns + static_cast<int64_t>(UniformUpTo(link.random, static_cast<uint64_t>(spread_ns)));
  InprocNode& receiver = *frame.receiver;
  frame.due_ns = delay_ns == 0 ? 0 : clock->NowNs() + delay_ns;
  frame.due_poll = receiver.num_polls + UniformUpTo(link.random, active.max_delay_polls);
  if (active.ordered) {
    frame.due_ns = std::max(frame.due_ns, link.last_due_ns);
    frame.due_poll = std::max(frame.due_poll, link.last_due_poll);
  }
  link.last_due_ns = frame.due_ns;
  link.last_due_poll = frame.due_poll;
  frame.order = next_order++;
  receiver.inbox.push_back(std::move(frame));
  receiver.event.NotifyAll();
}

void InprocNetwork::Hub::FailPeersOf(InprocNode& node, const InprocNode* other, const absl::Status& status) {
  for (auto& [id, peer] : node.peers) {
    if (peer.failed || peer.node.get() != other) continue;
    peer.failed = true;
    node.peer_errors.emplace_back(PeerId(id), status);
  }
  node.event.NotifyAll();
}

void InprocNetwork::Hub::DropTransit(const InprocNode* from, const InprocNode* to) {
  uint64_t num_lost = 0;
  for (const auto& node : nodes) {
    for (auto* queue : {&node->inbox, &node->outbox}) {
      std::erase_if(*queue, [&](InprocFrame& frame) {
        if (frame.sender.get() != from || frame.receiver.get() != to) return false;
        ++num_lost;
        Drop(frame);
        return true;
      });
    }
  }
  stats.lost += num_lost;
}

void InprocNetwork::Hub::BreakLink(const std::shared_ptr<InprocNode>& a, const std::shared_ptr<InprocNode>& b) {
  DropTransit(a.get(), b.get());
  DropTransit(b.get(), a.get());
  FailPeersOf(*a, b.get(), absl::UnavailableError(fmt::format("link to '{}' is broken", b->address)));
  FailPeersOf(*b, a.get(), absl::UnavailableError(fmt::format("link to '{}' is broken", a->address)));
}

void InprocNetwork::Hub::KillNode(InprocNode& node) {
  if (!node.alive) return;
  for (const auto& other : nodes) {
    DropTransit(&node, other.get());
    if (other.get() != &node) DropTransit(other.get(), &node);
    FailPeersOf(*other, &node, absl::UnavailableError(fmt::format("peer '{}' is dead", node.address)));
  }
  node.alive = false;
  node.event.NotifyAll();
  std::erase_if(nodes, [&](const auto& other) { return other.get() == &node; });
}

bool InprocNetwork::Hub::HasVisible(const InprocNode& node) const {
  if (node.frozen || !node.alive) return false;
  if (!node.peer_errors.empty()) return true;
  const int64_t now_ns = clock->NowNs();
  // A frame that waits for polls needs polls: it counts as visible, or a sleeping receiver would
  // never see it.
  return std::any_of(node.inbox.begin(), node.inbox.end(),
                     [&](const InprocFrame& frame) { return frame.due_ns <= now_ns; });
}

InprocNetwork::InprocNetwork(uint64_t seed, const Clock* clock) : hub_(std::make_shared<Hub>()) {
  hub_->seed = seed;
  hub_->clock = clock;
}

InprocNetwork::~InprocNetwork() = default;

std::unique_ptr<DataPlane> InprocNetwork::Create(std::string_view address, const InprocOptions& options) {
  auto node = std::make_shared<InprocNode>();
  node->address = std::string(address);
  {
    MutexLock lock(&hub_->mutex);
    TRIBUTARY_CHECK(!address.empty());
    TRIBUTARY_CHECK(hub_->Find(address) == nullptr);
    hub_->nodes.push_back(node);
  }
  return std::make_unique<InprocDataPlane>(hub_, std::move(node), options);
}

void InprocNetwork::SetFaults(const InprocFaults& faults) {
  MutexLock lock(&hub_->mutex);
  hub_->faults = faults;
  for (auto& [addresses, link] : hub_->links) link.faults.reset();
}

void InprocNetwork::SetLinkFaults(std::string_view from, std::string_view to, const InprocFaults& faults) {
  MutexLock lock(&hub_->mutex);
  hub_->LinkBetween(std::string(from), std::string(to)).faults = faults;
}

void InprocNetwork::Kill(std::string_view address) {
  MutexLock lock(&hub_->mutex);
  if (const auto node = hub_->Find(address)) hub_->KillNode(*node);
}

void InprocNetwork::Freeze(std::string_view address) {
  MutexLock lock(&hub_->mutex);
  if (const auto node = hub_->Find(address)) node->frozen = true;
}

void InprocNetwork::Thaw(std::string_view address) {
  MutexLock lock(&hub_->mutex);
  const auto node = hub_->Find(address);
  if (node == nullptr) return;
  node->frozen = false;
  std::vector<InprocFrame> outbox = std::exchange(node->outbox, {});
  for (InprocFrame& frame : outbox) hub_->Route(std::move(frame));
  node->event.NotifyAll();
}

void InprocNetwork::Cut(std::string_view a, std::string_view b) {
  MutexLock lock(&hub_->mutex);
  const auto node_a = hub_->Find(a);
  const auto node_b = hub_->Find(b);
  if (node_a == nullptr || node_b == nullptr) return;
  hub_->BreakLink(node_a, node_b);
}

std::optional<int64_t> InprocNetwork::NextDeliveryNs() const {
  MutexLock lock(&hub_->mutex);
  const int64_t now_ns = hub_->clock->NowNs();
  std::optional<int64_t> next_ns;
  for (const auto& node : hub_->nodes) {
    if (node->frozen) continue;
    for (const InprocFrame& frame : node->inbox) {
      if (frame.due_ns > now_ns && (!next_ns || frame.due_ns < *next_ns)) next_ns = frame.due_ns;
    }
  }
  return next_ns;
}

uint64_t InprocNetwork::frames_in_transit() const {
  MutexLock lock(&hub_->mutex);
  uint64_t frames = 0;
  for (const auto& node : hub_->nodes) frames += node->inbox.size() + node->outbox.size();
  return frames;
}

InprocStats InprocNetwork::stats() const {
  MutexLock lock(&hub_->mutex);
  return hub_->stats;
}

}  // namespace tributary
