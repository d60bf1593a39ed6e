// Moves frames between processes. Two implementations: transport/inproc (a twin with seeded faults, for tests) and
// transport/ucx (shared memory, TCP, RDMA). The interface mentions neither.
//
// Threads: a DataPlane belongs to one thread, which makes every call but Wake(). Handlers run inside Poll() on that
// thread and may call AllocateFrame() and Send(), but not Poll(), Connect() or Disconnect().
//
// Memory: frames are sent from buffers that the data plane owns (registered once, at start), so nothing is copied or
// allocated on the hot path. A received span is valid during the handler's call only, and need not be aligned.
//
// Delivery: frames to one peer may arrive late or out of order, and are lost if the peer is. Deadlines, heartbeats and
// replay checks are the caller's (a transport sees neither a hung peer nor a lost host).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "wire/frame.h"

namespace tributary {

using PeerId = StrongId<struct PeerIdTag, uint32_t>;

// What both sides tell each other before any frame flows (proto TransportInfo).
struct TransportInfo {
  std::string name;        // "inproc" or "ucx"
  std::string release;     // e.g. UCX "1.13.1"; peers of unlike releases use active messages only
  std::string transports;  // e.g. "posix,sysv,cma,tcp,self"
  std::string address;     // opaque bytes for Connect()
};

// A buffer to send from. Move-only; gives itself back to its data plane when destroyed or sent.
// Outlives nothing: destroy every FrameBuffer before its DataPlane.
class FrameBuffer {
 public:
  // The pool side of the handle, implemented by each data plane.
  class Owner {
   public:
    virtual ~Owner() = default;
    virtual void ReleaseFrame(std::byte* frame) = 0;
  };

  FrameBuffer() = default;
  FrameBuffer(Owner* owner, std::byte* frame, size_t payload_bytes)
      : owner_(owner), frame_(frame), payload_bytes_(payload_bytes) {}
  FrameBuffer(FrameBuffer&& other) noexcept { *this = std::move(other); }
  FrameBuffer& operator=(FrameBuffer&& other) noexcept {
    if (this != &other) {
      Reset();
      owner_ = other.owner_;
      payload_bytes_ = other.payload_bytes_;
      frame_ = other.Release();
    }
    return *this;
  }
  ~FrameBuffer() { Reset(); }

  explicit operator bool() const { return frame_ != nullptr; }
  // 64-byte aligned header, followed at once by the payload (64-byte aligned too).
  FrameHeader& header() { return *reinterpret_cast<FrameHeader*>(frame_); }
  std::span<std::byte> payload() { return {frame_ + kFrameHeaderBytes, payload_bytes_}; }
  std::span<const std::byte> bytes() const { return {frame_, kFrameHeaderBytes + payload_bytes_}; }
  // Hands the memory over to the caller (a data plane's Send).
  std::byte* Release() {
    std::byte* frame = frame_;
    frame_ = nullptr;
    return frame;
  }

 private:
  void Reset() {
    if (frame_ != nullptr) owner_->ReleaseFrame(Release());
  }
  Owner* owner_ = nullptr;
  std::byte* frame_ = nullptr;
  size_t payload_bytes_ = 0;
};

enum class SendClass {
  kEager,  // queries, partials, acks, heartbeats: latency first
  kBulk,   // spills: rendezvous, so that a slow receiver's memory is not flooded
};

class FrameHandler {
 public:
  virtual ~FrameHandler() = default;
  // `header` is what the sender wrote (kFrameHeaderBytes long unless it is garbage); both spans die with the call.
  virtual void OnFrame(std::span<const std::byte> header, std::span<const std::byte> payload) = 0;
  // The transport has given the peer up; frames on the way are lost. Called once per peer, never after Disconnect().
  virtual void OnPeerError(PeerId peer, const absl::Status& status) = 0;
};

struct DataPlaneCounters {
  uint64_t bytes_sent = 0;  // headers and payloads
  uint64_t bytes_received = 0;
  uint64_t frames_sent = 0;
  uint64_t frames_received = 0;
  uint64_t endpoint_errors = 0;
};

class DataPlane {
 public:
  virtual ~DataPlane() = default;

  virtual const TransportInfo& info() const = 0;

  // Makes a peer of the process with this address. Does not wait for it: a dead address shows as OnPeerError later, or
  // as UNAVAILABLE at once where the transport can tell. INVALID_ARGUMENT: not an address. FAILED_PRECONDITION: a
  // release that does not mix with ours.
  virtual absl::StatusOr<PeerId> Connect(std::string_view address) = 0;
  // Forgets the peer; what was not sent is dropped. Unknown peers are ignored.
  virtual void Disconnect(PeerId peer) = 0;

  // RESOURCE_EXHAUSTED when all buffers are in flight (poll, then try again), INVALID_ARGUMENT beyond
  // kMaxFramePayloadBytes. The payload is not zeroed.
  virtual absl::StatusOr<FrameBuffer> AllocateFrame(size_t payload_bytes) = 0;
  // Starts sending. UNAVAILABLE if the peer is unknown or failed. The header must be sealed.
  virtual absl::Status Send(PeerId peer, FrameBuffer frame, SendClass send_class) = 0;

  // Progresses everything that can be progressed without waiting. Returns the number of events handled.
  virtual int Poll(FrameHandler& handler) = 0;
  // Sleeps until something may have arrived, Wake() is called, or the time is over. At most 1 ms is slept in one go
  // (some transports' event fds miss wake-ups), so callers loop.
  virtual void WaitForEvent(int64_t timeout_ns) = 0;
  // Ends a WaitForEvent() from any thread.
  virtual void Wake() = 0;

  // The memory that frames to send lie in, which stays where it is; empty if there is no such region.
  virtual std::span<std::byte> send_memory() { return {}; }

  virtual DataPlaneCounters counters() const = 0;
};

}  // namespace tributary
