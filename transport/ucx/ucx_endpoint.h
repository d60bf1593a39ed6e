// RAII of ucp_ep_h: one peer, with the sends that are on their way to it.
#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "transport/ucx/frame_pool.h"

namespace tributary {

class UcxEndpoint;

// Stands before the frame in its buffer while UCX reads from it.
struct alignas(64) UcxSendRecord {
  UcxEndpoint* endpoint = nullptr;
  UcxSendRecord* next = nullptr;
  UcxSendRecord* prev = nullptr;
};
static_assert(sizeof(UcxSendRecord) == 64, "keeps the frame behind it 64-byte aligned");

// Counts for all endpoints of a data plane. The first two count since it last looked.
struct UcxEndpointEvents {
  int num_sends_done = 0;
  int num_failures = 0;
  size_t num_in_flight = 0;
};

// Belongs to the worker's thread. Callbacks of UCX only mark; closing happens from the progress
// loop.
class UcxEndpoint {
 public:
  enum class State {
    kOpen,
    kFailed,   // UCX has given the peer up: nothing may be sent, StartClose() is due
    kClosing,  // UCX still owns it
    kClosed,
  };

  // `pool`: where send buffers go back to; it and `events` outlive the endpoint.
  // Does not wait for the peer. UNAVAILABLE if UCX sees at once that nobody can be there.
  static absl::StatusOr<std::unique_ptr<UcxEndpoint>> Create(ucp_worker_h worker, std::string_view worker_address,
                                                             FramePool* pool, UcxEndpointEvents* events);
  // REQUIRES: closed (checked).
  ~UcxEndpoint();
  UcxEndpoint(const UcxEndpoint&) = delete;
  UcxEndpoint& operator=(const UcxEndpoint&) = delete;

  // Takes `buffer` = UcxSendRecord, 64 bytes of header, payload; gives it back to the pool when UCX
  // has done with it, and at once on error. UNAVAILABLE unless open.
  absl::Status Send(unsigned message_id, std::byte* buffer, size_t payload_bytes, ucp_mem_h memory, bool eager);

  // Drops what is not yet sent. Poll() until closed.
  void StartClose();
  // True once UCX has let go of the endpoint and of all its buffers.
  bool PollClosed();

  // A process that ends and cannot wait calls this: the endpoint leaks, and with it the buffers that UCX may still
  // read.
  void Abandon() {}

  State state() const { return state_; }
  // Why it failed; OK unless it did.
  const absl::Status& error() const { return error_; }

 private:
  UcxEndpoint(FramePool* pool, UcxEndpointEvents* events) : pool_(pool), events_(events) {}
  static void OnError(void* argument, ucp_ep_h endpoint, ucs_status_t status);
  static void OnSendDone(void* request, ucs_status_t status, void* argument);
  void Track(UcxSendRecord* record);
  void Untrack(UcxSendRecord* record);

  FramePool* const pool_;
  UcxEndpointEvents* const events_;
  ucp_ep_h handle_ = nullptr;
  State state_ = State::kOpen;
  absl::Status error_;
  void* close_request_ = nullptr;
  UcxSendRecord* in_flight_ = nullptr;  // doubly linked
};

}  // namespace tributary
