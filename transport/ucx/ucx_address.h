// The form in which a UCX worker address crosses process borders. UCX trusts an address it is given
// and aborts the process on a bad one, so it never sees bytes that were not made by
// EncodeUcxAddress().
//
//   offset  bytes
//   0       4      "TUA1"
//   4       2      UCX major release, little-endian
//   6       2      UCX minor release
//   8       4      worker address bytes
//   12      8      SipHash-2-4 of the worker address under a fixed key (a checksum: it proves
//   nothing about the sender) 20             worker address
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tributary {

struct UcxAddress {
  uint16_t major = 0;
  uint16_t minor = 0;
  uint32_t settings_version = 0;
  std::string worker_address;
};

std::string EncodeUcxAddress(const UcxAddress& address);
// INVALID_ARGUMENT with what is wrong with the bytes.
absl::StatusOr<UcxAddress> DecodeUcxAddress(std::string_view bytes);

}  // namespace tributary
