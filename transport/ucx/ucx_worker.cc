#include "transport/ucx/ucx_worker.h"

#include <utility>

#include "base/status.h"
#include "transport/ucx/ucx_status.h"

namespace tributary {

absl::StatusOr<UcxWorker> UcxWorker::Create(ucp_context_h context) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SINGLE;
  ucp_worker_h handle = nullptr;
  TRIBUTARY_RETURN_IF_ERROR(StatusFromUcx(ucp_worker_create(context, &params, &handle), "creating a UCX worker"));
  UcxWorker worker(handle);
  TRIBUTARY_RETURN_IF_ERROR(
      StatusFromUcx(ucp_worker_get_efd(handle, &worker.event_fd_), "getting the event fd of the UCX worker"));
  ucp_address_t* address = nullptr;
  size_t address_bytes = 0;
  TRIBUTARY_RETURN_IF_ERROR(
      StatusFromUcx(ucp_worker_get_address(handle, &address, &address_bytes), "getting the UCX worker address"));
  worker.address_.assign(reinterpret_cast<const char*>(address), address_bytes);
  ucp_worker_release_address(handle, address);
  return worker;
}

absl::Status UcxWorker::SetMessageHandler(unsigned id, ucp_am_recv_callback_t callback, void* argument) {
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = id;
  params.flags = UCP_AM_FLAG_WHOLE_MSG;
  params.cb = callback;
  params.arg = argument;
  return StatusFromUcx(ucp_worker_set_am_recv_handler(handle_, &params), "setting the UCX message handler");
}

UcxWorker::UcxWorker(UcxWorker&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)), event_fd_(other.event_fd_), address_(std::move(other.address_)) {}

UcxWorker::~UcxWorker() {
  if (handle_ != nullptr) ucp_worker_destroy(handle_);
}

}  // namespace tributary
