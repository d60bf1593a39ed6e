// RAII of ucp_worker_h: progress, the event fd, and the address by which others reach it.
#pragma once

#include <ucp/api/ucp.h>

#include <string>

#include "absl/status/statusor.h"

namespace tributary {

// Move-only; belongs to one thread. The context outlives it.
class UcxWorker {
 public:
  static absl::StatusOr<UcxWorker> Create(ucp_context_h context);
  UcxWorker(UcxWorker&& other) noexcept;
  UcxWorker& operator=(UcxWorker&&) = delete;
  ~UcxWorker();

  // `callback` runs inside Progress() for each message with this id.
  absl::Status SetMessageHandler(unsigned id, ucp_am_recv_callback_t callback, void* argument);

  unsigned Progress() { return ucp_worker_progress(handle_); }
  // True if the event fd will fire at the next event; false if there is something to progress right
  // now.
  bool Arm() { return ucp_worker_arm(handle_) == UCS_OK; }

  ucp_worker_h handle() const { return handle_; }
  int event_fd() const { return event_fd_; }
  // Opaque bytes; ucx_address.h wraps them for the wire.
  const std::string& address() const { return address_; }

 private:
  explicit UcxWorker(ucp_worker_h handle) : handle_(handle) {}
  ucp_worker_h handle_;
  int event_fd_ = -1;  // owned by the worker
  std::string address_;
};

}  // namespace tributary
