#include "rpc/grpc_status.h"

#include <string>

#include "tributary/v1/rpc_status.pb.h"

namespace tributary {
namespace {

constexpr char kRetryInfoTypeUrl[] = "type.googleapis.com/google.rpc.RetryInfo";
constexpr int64_t kNanosPerSecond = 1'000'000'000;

grpc::StatusCode CodeOf(const absl::Status& status) { return static_cast<grpc::StatusCode>(status.code()); }

}  // namespace

static_assert(static_cast<int>(absl::StatusCode::kUnavailable) == grpc::StatusCode::UNAVAILABLE);
static_assert(static_cast<int>(absl::StatusCode::kInvalidArgument) == grpc::StatusCode::INVALID_ARGUMENT);

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(CodeOf(status), std::string(status.message()));
}

grpc::Status ToGrpcStatus(const absl::Status& status, int64_t retry_delay_ns) {
  v1::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(retry_delay_ns / kNanosPerSecond);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(retry_delay_ns % kNanosPerSecond));
  v1::RpcStatus details;
  details.set_code(static_cast<int32_t>(status.code()));
  details.set_message(std::string(status.message()));
  google::protobuf::Any& any = *details.add_details();
  any.set_type_url(kRetryInfoTypeUrl);
  any.set_value(retry.SerializeAsString());
  return grpc::Status(CodeOf(status), std::string(status.message()), details.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = status.error_message();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      absl::string_view(message.data(), message.size()));
}

std::optional<int64_t> RetryDelayNs(const grpc::Status& status) {
  v1::RpcStatus details;
  if (!details.ParseFromString(status.error_details())) return std::nullopt;
  for (const google::protobuf::Any& any : details.details()) {
    v1::RetryInfo retry;
    if (any.type_url() == kRetryInfoTypeUrl && retry.ParseFromString(any.value())) {
      return retry.retry_delay().seconds() * kNanosPerSecond + retry.retry_delay().nanos();
    }
  }
  return std::nullopt;
}

}  // namespace tributary
