#include "transport/ucx/ucx_endpoint.h"

#include <new>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "transport/ucx/ucx_status.h"
#include "wire/frame.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<UcxEndpoint>> UcxEndpoint::Create(ucp_worker_h worker, std::string_view worker_address,
                                                                 FramePool* pool, UcxEndpointEvents* events) {
  std::unique_ptr<UcxEndpoint> endpoint(new UcxEndpoint(pool, events));
  ucp_ep_params_t params{};
  params.field_mask =
      UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(worker_address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = OnError;
  params.err_handler.arg = endpoint.get();
  const ucs_status_t status = ucp_ep_create(worker, &params, &endpoint->handle_);
  if (status != UCS_OK) {
    endpoint->state_ = State::kClosed;
    return StatusFromUcx(status,
                         "connecting to a UCX peer (gone, or without a common transport; compare "
                         "TransportInfo.transports of both sides)");
  }
  return endpoint;
}

UcxEndpoint::~UcxEndpoint() { TRIBUTARY_CHECK(state_ == State::kClosed); }

void UcxEndpoint::OnError(void* argument, ucp_ep_h endpoint, ucs_status_t status) {
  auto* self = static_cast<UcxEndpoint*>(argument);
  if (self->state_ != State::kOpen) return;
  self->state_ = State::kFailed;
  self->error_ = StatusFromUcx(status, "UCX has given the peer up");
  ++self->events_->num_failures;
}

void UcxEndpoint::OnSendDone(void* request, ucs_status_t status, void* argument) {
  // A failed send needs no report: the endpoint's error or its closing is why.
  auto* record = static_cast<UcxSendRecord*>(argument);
  UcxEndpoint* endpoint = record->endpoint;
  endpoint->Untrack(record);
  endpoint->pool_->Free(reinterpret_cast<std::byte*>(record));
  ++endpoint->events_->num_sends_done;
  ucp_request_free(request);
}

void UcxEndpoint::Track(UcxSendRecord* record) {
  record->prev = nullptr;
  record->next = in_flight_;
  if (in_flight_ != nullptr) in_flight_->prev = record;
  in_flight_ = record;
  ++events_->num_in_flight;
}

void UcxEndpoint::Untrack(UcxSendRecord* record) {
  if (record->prev != nullptr) {
    record->prev->next = record->next;
  } else {
    in_flight_ = record->next;
  }
  if (record->next != nullptr) record->next->prev = record->prev;
  --events_->num_in_flight;
}

absl::Status UcxEndpoint::Send(unsigned message_id, std::byte* buffer, size_t payload_bytes, ucp_mem_h memory,
                               bool eager) {
  if (state_ != State::kOpen) {
    pool_->Free(buffer);
    return absl::UnavailableError("the peer has failed; connect again");
  }
  auto* record = new (buffer) UcxSendRecord{.endpoint = this};
  const std::byte* header = buffer + sizeof(UcxSendRecord);
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS |
                        UCP_OP_ATTR_FIELD_MEMORY_TYPE | UCP_OP_ATTR_FIELD_MEMH;
  params.flags = eager ? UCP_AM_SEND_FLAG_EAGER : 0;
  params.cb.send = OnSendDone;
  params.user_data = record;
  params.memory_type = UCS_MEMORY_TYPE_HOST;
  params.memh = memory;
  Track(record);
  const ucs_status_ptr_t request = ucp_am_send_nbx(handle_, message_id, header, kFrameHeaderBytes,
                                                   header + kFrameHeaderBytes, payload_bytes, &params);
  if (UCS_PTR_IS_PTR(request)) return absl::OkStatus();  // OnSendDone() will come
  Untrack(record);
  pool_->Free(buffer);
  if (request == nullptr) return absl::OkStatus();
  return StatusFromUcx(UCS_PTR_STATUS(request), "sending a frame");
}

void UcxEndpoint::StartClose() {
  TRIBUTARY_CHECK(state_ == State::kOpen || state_ == State::kFailed);
  state_ = State::kClosing;
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(handle_, &params);
  if (UCS_PTR_IS_PTR(request)) {
    close_request_ = request;
  } else if (UCS_PTR_IS_ERR(request)) {
    LOG_WARN("{}", StatusFromUcx(UCS_PTR_STATUS(request), "closing a UCX endpoint").ToString());
  }
}

bool UcxEndpoint::PollClosed() {
  if (state_ == State::kClosed) return true;
  TRIBUTARY_CHECK(state_ == State::kClosing);
  if (close_request_ != nullptr) {
    if (ucp_request_check_status(close_request_) == UCS_INPROGRESS) return false;
    ucp_request_free(close_request_);
    close_request_ = nullptr;
  }
  if (in_flight_ != nullptr) return false;
  state_ = State::kClosed;
  return true;
}

}  // namespace tributary
