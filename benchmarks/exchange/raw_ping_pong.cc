#include "benchmarks/exchange/raw_ping_pong.h"

#include "base/check.h"
#include "base/status.h"
#include "transport/ucx/ucx_status.h"
#include "wire/frame.h"

namespace tributary {
namespace {

constexpr unsigned kMessageId = 2;

absl::StatusOr<ucp_context_h> CreateDefaultContext(const UcxOptions& options) {
  ucp_config_t* config = nullptr;
  TRIBUTARY_RETURN_IF_ERROR(StatusFromUcx(ucp_config_read(nullptr, nullptr, &config), "reading the UCX configuration"));
  ucp_config_modify(config, "MM_ERROR_HANDLING", "y");
  if (!options.tls.empty()) ucp_config_modify(config, "TLS", options.tls.c_str());
  if (!options.net_devices.empty()) {
    ucp_config_modify(config, "NET_DEVICES", options.net_devices.c_str());
  }
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  ucp_context_h context = nullptr;
  const ucs_status_t status = ucp_init(&params, config, &context);
  ucp_config_release(config);
  TRIBUTARY_RETURN_IF_ERROR(StatusFromUcx(status, "starting UCX with its defaults"));
  return context;
}

}  // namespace

RawPingPong::RawPingPong(size_t max_bytes)
    : send_buffer_(kFrameHeaderBytes + max_bytes, std::byte{1}), recv_buffer_(max_bytes, std::byte{2}) {}

absl::StatusOr<std::unique_ptr<RawPingPong>> RawPingPong::Create(const UcxOptions& options, RawSettings settings,
                                                                 size_t max_bytes) {
  std::unique_ptr<RawPingPong> end(new RawPingPong(max_bytes));
  TRIBUTARY_RETURN_IF_ERROR(end->Start(options, settings));
  return end;
}

absl::Status RawPingPong::Start(const UcxOptions& options, RawSettings settings) {
  ucp_context_h context = nullptr;
  if (settings == RawSettings::kOurs) {
    TRIBUTARY_ASSIGN_OR_RETURN(UcxContext ours, UcxContext::Create(options));
    our_context_.emplace(std::move(ours));
    context = our_context_->handle();
  } else {
    TRIBUTARY_ASSIGN_OR_RETURN(default_context_, CreateDefaultContext(options));
    context = default_context_;
  }
  TRIBUTARY_ASSIGN_OR_RETURN(UcxWorker worker, UcxWorker::Create(context));
  worker_.emplace(std::move(worker));
  return worker_->SetMessageHandler(kMessageId, OnMessage, this);
}

RawPingPong::~RawPingPong() {
  if (endpoint_ != nullptr) {
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    void* request = ucp_ep_close_nbx(endpoint_, &param);
    if (UCS_PTR_IS_PTR(request)) {
      while (ucp_request_check_status(request) == UCS_INPROGRESS) worker_->Progress();
      ucp_request_free(request);
    }
  }
  worker_.reset();
  if (default_context_ != nullptr) ucp_cleanup(default_context_);
}

absl::Status RawPingPong::Connect(const std::string& worker_address) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.address = reinterpret_cast<const ucp_address_t*>(worker_address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  return StatusFromUcx(ucp_ep_create(worker_->handle(), &params, &endpoint_), "connecting");
}

void RawPingPong::Send(size_t bytes, bool eager) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = eager ? UCP_AM_SEND_FLAG_EAGER : 0;
  void* request = ucp_am_send_nbx(endpoint_, kMessageId, send_buffer_.data(), kFrameHeaderBytes,
                                  send_buffer_.data() + kFrameHeaderBytes, bytes, &param);
  TRIBUTARY_CHECK(!UCS_PTR_IS_ERR(request));
  if (request == nullptr) return;
  while (ucp_request_check_status(request) == UCS_INPROGRESS) worker_->Progress();
  ucp_request_free(request);
}

ucs_status_t RawPingPong::OnMessage(void* argument, const void* header, size_t header_bytes, void* data, size_t bytes,
                                    const ucp_am_recv_param_t* param) {
  auto* self = static_cast<RawPingPong*>(argument);
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0) {
    ++self->num_received_;
    return UCS_OK;
  }
  ucp_request_param_t receive{};
  void* request = ucp_am_recv_data_nbx(self->worker_->handle(), data, self->recv_buffer_.data(), bytes, &receive);
  TRIBUTARY_CHECK(!UCS_PTR_IS_ERR(request));
  if (request == nullptr) {
    ++self->num_received_;
  } else {
    self->receiving_ = request;
  }
  return UCS_INPROGRESS;
}

bool RawPingPong::Poll() {
  worker_->Progress();
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
