#include "transport/ucx/ucx_status.h"

#include "fmt/format.h"

namespace tributary {
namespace {

absl::StatusCode CodeFromUcx(ucs_status_t status) {
  if (UCS_IS_LINK_ERROR(status) || UCS_IS_ENDPOINT_ERROR(status)) {
    return absl::StatusCode::kUnavailable;
  }
  switch (status) {
    case UCS_OK:
    case UCS_INPROGRESS:
      return absl::StatusCode::kOk;
    case UCS_ERR_UNREACHABLE:
    case UCS_ERR_CONNECTION_RESET:
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_REJECTED:
    case UCS_ERR_IO_ERROR:
    case UCS_ERR_SHMEM_SEGMENT:
    case UCS_ERR_TIMED_OUT:
      return absl::StatusCode::kUnavailable;
    case UCS_ERR_NO_MEMORY:
    case UCS_ERR_NO_RESOURCE:
    case UCS_ERR_EXCEEDS_LIMIT:
      return absl::StatusCode::kResourceExhausted;
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_INVALID_ADDR:
    case UCS_ERR_OUT_OF_RANGE:
    case UCS_ERR_BUFFER_TOO_SMALL:
      return absl::StatusCode::kInvalidArgument;
    case UCS_ERR_MESSAGE_TRUNCATED:
      return absl::StatusCode::kDataLoss;
    case UCS_ERR_NO_DEVICE:
    case UCS_ERR_NO_ELEM:
      return absl::StatusCode::kNotFound;
    case UCS_ERR_UNSUPPORTED:
    case UCS_ERR_NOT_IMPLEMENTED:
      return absl::StatusCode::kUnimplemented;
    case UCS_ERR_CANCELED:
      return absl::StatusCode::kCancelled;
    case UCS_ERR_ALREADY_EXISTS:
      return absl::StatusCode::kAlreadyExists;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::Status StatusFromUcx(ucs_status_t status, std::string_view what) {
  const absl::StatusCode code = CodeFromUcx(status);
  if (code == absl::StatusCode::kOk) return absl::OkStatus();
  return absl::Status(code, fmt::format("{}: {}", what, ucs_status_string(status)));
}

}  // namespace tributary
