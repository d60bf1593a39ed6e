// Internals shared by inproc_network.cc and inproc_data_plane.cc: who is there, and what is on its
// way to whom.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "transport/inproc/inproc_network.h"

namespace tributary {

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using FrameMemory = std::unique_ptr<std::byte[], FreeMemory>;

// Exactly `bytes` long, 64-byte aligned: a sanitizer sees every access beyond it.
FrameMemory AllocateFrameMemory(size_t bytes);

struct InprocNode;

struct InprocFrame {
  FrameMemory memory;
  size_t bytes = 0;
  std::shared_ptr<InprocNode> sender;
  std::shared_ptr<InprocNode> receiver;
  int64_t due_ns = 0;
  uint64_t due_poll = 0;
  uint64_t order = 0;   // of sending, over the whole network
  bool counted = true;  // in the sender's frames_in_flight; a duplicate is not
};

struct InprocPeer {
  std::shared_ptr<InprocNode> node;  // null if nobody had the address at Connect()
  bool failed = false;               // no frame leaves or arrives any more; the error is on its way or reported
  bool reported = false;
};

// One data plane's state. All fields but the atomics are guarded by Hub::mutex.
struct InprocNode {
  std::string address;
  std::atomic<uint32_t> frames_in_flight{0};
  bool alive = true;
  bool frozen = false;
  bool woken = false;
  uint64_t num_polls = 0;
  uint32_t next_peer_id = 1;
  std::map<uint32_t, InprocPeer> peers;
  std::vector<std::pair<PeerId, absl::Status>> peer_errors;  // not yet reported
  std::vector<InprocFrame> inbox;                            // not yet handled
  std::vector<InprocFrame> outbox;                           // sent while frozen
  DataPlaneCounters counters;
  CondVar event;
};

struct InprocNetwork::Hub {
  struct Link {
    explicit Link(uint64_t seed) : random(seed) {}
    std::mt19937_64 random;
    std::optional<InprocFaults> faults;  // unset: the network's
    int64_t last_due_ns = 0;
    uint64_t last_due_poll = 0;
  };

  Link& LinkBetween(const std::string& from, const std::string& to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  std::shared_ptr<InprocNode> Find(std::string_view address) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Passes a frame through the faults of its link, into the receiver's inbox.
  void Route(InprocFrame frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Enqueue(Link& link, const InprocFaults& active, InprocFrame frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Every peer entry of `node` that means `other` fails with this reason.
  void FailPeersOf(InprocNode& node, const InprocNode* other, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Drops what is on its way from one to the other.
  void DropTransit(const InprocNode* from, const InprocNode* to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Gives the frame's memory back; needs no lock.
  static void Drop(InprocFrame& frame);
  void BreakLink(const std::shared_ptr<InprocNode>& a, const std::shared_ptr<InprocNode>& b)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void KillNode(InprocNode& node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool HasVisible(const InprocNode& node) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  uint64_t seed = 0;
  const Clock* clock = nullptr;
  mutable Mutex mutex;  // guards the nodes' fields, too
  InprocFaults faults ABSL_GUARDED_BY(mutex);
  InprocStats stats ABSL_GUARDED_BY(mutex);
  uint64_t next_order ABSL_GUARDED_BY(mutex) = 0;
  std::vector<std::shared_ptr<InprocNode>> nodes ABSL_GUARDED_BY(mutex);  // alive ones
  std::map<std::pair<std::string, std::string>, Link> links ABSL_GUARDED_BY(mutex);
};

}  // namespace tributary
