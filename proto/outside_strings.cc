#include "proto/outside_strings.h"

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "base/outside_text.h"
#include "base/status.h"
#include "fmt/format.h"
#include "google/protobuf/descriptor.h"

namespace tributary {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

struct NameLimit {
  std::string_view field;
  size_t max_bytes;
};

constexpr NameLimit kNameLimits[] = {
    {"node_id", limits::kMaxNodeIdBytes},
    {"worker_id", limits::kMaxNodeIdBytes},
    {"failed_node_id", limits::kMaxNodeIdBytes},
    {"request_id", limits::kMaxRequestIdBytes},
    {"continue_request_id", limits::kMaxRequestIdBytes},
    {"control_address", limits::kMaxAddressBytes},
    {"metrics_address", limits::kMaxAddressBytes},
    {"model_name", limits::kMaxModelNameBytes},
};

size_t LimitOf(std::string_view field) {
  for (const NameLimit& limit : kNameLimits) {
    if (limit.field == field) return limit.max_bytes;
  }
  return limits::kMaxOutsideTextBytes;
}

absl::Status CheckValue(const FieldDescriptor& field, const std::string& value) {
  const std::string& name = field.name();
  if (field.type() == FieldDescriptor::TYPE_STRING) return CheckOutsideText(name, value, LimitOf(name));
  if (name != "address" || value.size() <= limits::kMaxTransportAddressBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} has {} bytes; at most {} are allowed", name, value.size(), limits::kMaxTransportAddressBytes));
}

absl::Status CheckField(const Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  const int count = field.is_repeated() ? reflection.FieldSize(message, &field) : 1;
  std::string scratch;
  for (int i = 0; i < count; ++i) {
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      TRIBUTARY_RETURN_IF_ERROR(CheckOutsideStrings(field.is_repeated()
                                                        ? reflection.GetRepeatedMessage(message, &field, i)
                                                        : reflection.GetMessage(message, &field)));
    } else {
      TRIBUTARY_RETURN_IF_ERROR(
          CheckValue(field, field.is_repeated() ? reflection.GetRepeatedStringReference(message, &field, i, &scratch)
                                                : reflection.GetStringReference(message, &field, &scratch)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckOutsideStrings(const Message& message) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE || field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      TRIBUTARY_RETURN_IF_ERROR(CheckField(message, *field));
    }
  }
  return absl::OkStatus();
}

}  // namespace tributary
