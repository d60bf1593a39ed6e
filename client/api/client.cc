#include "client/api/client.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "base/clock.h"
#include "base/outside_text.h"
#include "base/status.h"
#include "fmt/format.h"
#include "proto/outside_strings.h"
#include "rpc/grpc_channel.h"
#include "rpc/grpc_status.h"
#include "rpc/security/connection_probe.h"
#include "rpc/security/rpc_security.h"

namespace tributary {
namespace {

constexpr double kConnectTimeoutS = 5;
constexpr double kStateChangeS = 0.1;

std::chrono::system_clock::time_point DeadlineAfter(double seconds) {
  return std::chrono::system_clock::now() + std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3));
}

// gRPC's words for a ping without an answer, and the system's for bytes that nobody acknowledged.
bool IsSilence(const std::string& message) {
  return message.find("keepalive") != std::string::npos || message.find("ping timeout") != std::string::npos ||
         message.find("Connection timed out") != std::string::npos;
}

}  // namespace

absl::StatusOr<RpcCredentials> ClientCredentials(const TlsFiles& tls) {
  if (tls.empty()) return RpcCredentials();
  TRIBUTARY_ASSIGN_OR_RETURN(const auto security,
                             RpcSecurity::Make({.tls = tls, .cluster_secret_file = ""}, PeerRole::kClient));
  return security->ChannelOptions(PeerRole::kCoordinator).credentials;
}

Client::Client(std::string address, RpcOptions options)
    : address_(std::move(address)),
      keepalive_timeout_ns_(options.keepalive_timeout_ns),
      credentials_(options.credentials) {
  options.max_message_bytes = std::numeric_limits<int32_t>::max();
  channel_ = MakeChannel(address_, options);
  stub_ = v1::Coordinator::NewStub(channel_);
}

absl::Status Client::WaitForConnection(double timeout_s) {
  if (channel_->WaitForConnected(DeadlineAfter(timeout_s))) return absl::OkStatus();
  if (const std::string why = WhyNoTlsConnection(address_, credentials_); !why.empty()) {
    return absl::UnavailableError(fmt::format("no connection to the coordinator at {}: {}", address_, why));
  }
  return absl::UnavailableError(
      fmt::format("no coordinator answers at {}; is the address right? 'tributary cluster up' "
                  "starts a local cluster "
                  "and prints its address",
                  address_));
}

absl::Status Client::ExplainSilence(const std::string& message, int64_t silent_ns) const {
  return absl::UnavailableError(fmt::format(
      "nothing came from the coordinator at {} for {:.0f} s, nor an answer to the ping of this connection within "
      "{:.0f} "
      "s ({}): it stands still, its host is gone, or the network between is cut. This request is given up; ask again "
      "once 'tributary status --coordinator {}' answers",
      address_, SecondsFromNs(silent_ns), SecondsFromNs(keepalive_timeout_ns_), message, address_));
}

absl::Status Client::Explain(const grpc::Status& status, int64_t silent_ns) const {
  absl::Status result = FromGrpcStatus(status);
  // It may quote what others have sent, and goes to a terminal.
  const std::string message = Printable(status.error_message());
  if (!result.ok()) result = absl::Status(result.code(), message);
  // gRPC's own words ("Socket closed") name neither side. The channel may learn of it a little later.
  if (absl::IsUnavailable(result) && (channel_->GetState(false) != GRPC_CHANNEL_READY ||
                                      channel_->WaitForStateChange(GRPC_CHANNEL_READY, DeadlineAfter(kStateChangeS)))) {
    if (IsSilence(message)) return ExplainSilence(message, silent_ns);
    return absl::UnavailableError(
        fmt::format("{}; the connection to the coordinator at {} is lost: does it still run?", message, address_));
  }
  if (const auto delay_ns = RetryDelayNs(status); delay_ns.has_value()) {
    result = absl::Status(result.code(), fmt::format("{} (retry after {:.1f} s)", message, SecondsFromNs(*delay_ns)));
  }
  return result;
}

absl::StatusOr<v1::GenerateEvent::Summary> Client::Generate(const v1::GenerateRequest& request,
                                                            const GenerateHandlers& handlers) {
  TRIBUTARY_RETURN_IF_ERROR(CheckOutsideStrings(request));
  TRIBUTARY_RETURN_IF_ERROR(WaitForConnection(kConnectTimeoutS));
  grpc::ClientContext context;
  {
    MutexLock lock(&mutex_);
    if (cancelled_) return absl::CancelledError("cancelled before it was sent");
    running_.push_back(&context);
  }
  const auto stream = stub_->Generate(&context, request);
  v1::GenerateEvent event;
  bool have_summary = false;
  v1::GenerateEvent::Summary summary;
  int64_t heard_ns = RealClock().NowNs();
  while (stream->Read(&event)) {
    heard_ns = RealClock().NowNs();
    if (event.has_accepted() && handlers.on_accepted) handlers.on_accepted(event.accepted());
    if (event.has_prefill() && handlers.on_prefill) handlers.on_prefill(event.prefill());
    if (event.has_tokens() && handlers.on_tokens) handlers.on_tokens(event.tokens());
    if (event.has_stalled() && handlers.on_stalled) handlers.on_stalled(event.stalled());
    if (event.has_resumed() && handlers.on_resumed) handlers.on_resumed();
    if (event.has_summary()) {
      summary = event.summary();
      have_summary = true;
    }
  }
  const grpc::Status status = stream->Finish();
  bool cancelled_here = false;
  {
    MutexLock lock(&mutex_);
    std::erase(running_, &context);
    cancelled_here = cancelled_;
  }
  if (cancelled_here && status.error_code() == grpc::StatusCode::CANCELLED) {
    return absl::CancelledError("interrupted; the request is cancelled and its KV freed");
  }
  if (!status.ok()) return Explain(status, RealClock().NowNs() - heard_ns);
  if (!have_summary) {
    return absl::InternalError(fmt::format("the coordinator at {} ended the stream without a summary", address_));
  }
  return summary;
}

absl::Status Client::Cancel(const std::string& request_id) {
  TRIBUTARY_RETURN_IF_ERROR(WaitForConnection(kConnectTimeoutS));
  grpc::ClientContext context;
  context.set_deadline(DeadlineAfter(kConnectTimeoutS));
  v1::CancelRequest request;
  request.set_request_id(request_id);
  TRIBUTARY_RETURN_IF_ERROR(CheckOutsideStrings(request));
  v1::CancelResponse response;
  return Explain(stub_->Cancel(&context, request, &response));
}

absl::StatusOr<v1::StatusResponse> Client::Status(double timeout_s) {
  TRIBUTARY_RETURN_IF_ERROR(WaitForConnection(timeout_s));
  grpc::ClientContext context;
  context.set_deadline(DeadlineAfter(timeout_s));
  v1::StatusResponse response;
  const grpc::Status status = stub_->Status(&context, v1::StatusRequest(), &response);
  if (!status.ok()) return Explain(status);
  return response;
}

void Client::CancelRunning() {
  MutexLock lock(&mutex_);
  for (grpc::ClientContext* context : running_) context->TryCancel();
}

void Client::CancelAll() {
  MutexLock lock(&mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* context : running_) context->TryCancel();
}

}  // namespace tributary
