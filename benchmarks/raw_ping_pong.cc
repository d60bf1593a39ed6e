#include "benchmarks/raw_ping_pong.h"

#include "attention/frame.h"
#include "base/check.h"
#include "base/status.h"
#include "transport/ucx/ucx_status.h"

namespace tributary {
namespace {

constexpr unsigned kMessageId = 2;

}  // namespace

RawPingPong::RawPingPong(UcxContext context, UcxWorker worker, size_t max_bytes)
    : context_(std::move(context)),
      worker_(std::move(worker)),
      send_buffer_(kFrameHeaderBytes + max_bytes, std::byte{1}),
      recv_buffer_(max_bytes, std::byte{2}) {}

absl::StatusOr<std::unique_ptr<RawPingPong>> RawPingPong::Create(const UcxOptions& options,
                                                                 size_t max_bytes) {
  TRIBUTARY_ASSIGN_OR_RETURN(UcxContext context, UcxContext::Create(options));
  TRIBUTARY_ASSIGN_OR_RETURN(UcxWorker worker, UcxWorker::Create(context.handle()));
  std::unique_ptr<RawPingPong> end(
      new RawPingPong(std::move(context), std::move(worker), max_bytes));
  TRIBUTARY_RETURN_IF_ERROR(end->worker_.SetMessageHandler(kMessageId, OnMessage, end.get()));
  return end;
}

RawPingPong::~RawPingPong() {
  if (endpoint_ == nullptr) return;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  void* request = ucp_ep_close_nbx(endpoint_, &param);
  if (!UCS_PTR_IS_PTR(request)) return;
  while (ucp_request_check_status(request) == UCS_INPROGRESS) worker_.Progress();
  ucp_request_free(request);
}

absl::Status RawPingPong::Connect(const std::string& worker_address) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.address = reinterpret_cast<const ucp_address_t*>(worker_address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  return StatusFromUcx(ucp_ep_create(worker_.handle(), &params, &endpoint_), "connecting");
}

void RawPingPong::Send(size_t bytes, bool eager) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = eager ? UCP_AM_SEND_FLAG_EAGER : 0;
  void* request = ucp_am_send_nbx(endpoint_, kMessageId, send_buffer_.data(), kFrameHeaderBytes,
                                  send_buffer_.data() + kFrameHeaderBytes, bytes, &param);
  TRIBUTARY_CHECK(!UCS_PTR_IS_ERR(request));
  if (request == nullptr) return;
  while (ucp_request_check_status(request) == UCS_INPROGRESS) worker_.Progress();
  ucp_request_free(request);
}

ucs_status_t RawPingPong::OnMessage(void* argument, const void* header, size_t header_bytes,
                                    void* data, size_t bytes, const ucp_am_recv_param_t* param) {
  auto* self = static_cast<RawPingPong*>(argument);
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0) {
    ++self->num_received_;
    return UCS_OK;
  }
  ucp_request_param_t receive{};
  void* request = ucp_am_recv_data_nbx(self->worker_.handle(), data, self->recv_buffer_.data(),
                                       bytes, &receive);
  TRIBUTARY_CHECK(!UCS_PTR_IS_ERR(request));
  if (request == nullptr) {
    ++self->num_received_;
  } else {
    self->receiving_ = request;
  }
  return UCS_INPROGRESS;
}

bool RawPingPong::Poll() {
  worker_.Progress();
  if (receiving_ != nullptr && ucp_request_check_status(receiving_) != UCS_INPROGRESS) {
    ucp_request_free(receiving_);
    receiving_ = nullptr;
    ++num_received_;
  }
  if (num_received_ == 0) return false;
  --num_received_;
  return true;
}

}  // namespace tributary
