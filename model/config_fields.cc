#include "model/config_fields.h"

#include <cmath>

#include "fmt/format.h"
#include "model/json_text.h"

namespace tributary {

using nlohmann::json;

const json* ConfigFields::Find(const char* name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool ConfigFields::IsNull(const char* name) const {
  const auto found = object_.find(name);
  return found != object_.end() && found->is_null();
}

bool ConfigFields::IsZero(const char* name) const {
  const json* value = Find(name);
  return value != nullptr && value->is_number_unsigned() && value->get<uint64_t>() == 0;
}

absl::Status ConfigFields::Invalid(const char* name, const std::string& expected) const {
  const json* value = Find(name);
  if (value == nullptr) {
    return absl::InvalidArgumentError(fmt::format("{}: field '{}' is missing; expected {}", where_, name, expected));
  }
  return absl::InvalidArgumentError(
      fmt::format("{}: field '{}' is {}; expected {}", where_, name, BriefJson(*value), expected));
}

absl::Status ConfigFields::Unimplemented(const char* name, const std::string& supported) const {
  const json* value = Find(name);
  return absl::UnimplementedError(fmt::format("{}: '{}' is {}, which is not served; supported: {}", where_, name,
                                              value == nullptr ? "absent" : BriefJson(*value), supported));
}

absl::Status ConfigFields::Read(const char* name, uint32_t max, uint32_t fallback, uint32_t& out) const {
  const json* value = Find(name);
  if (value == nullptr && fallback != kRequiredField) {
    out = fallback;
    return absl::OkStatus();
  }
  if (value == nullptr || !value->is_number_unsigned() || value->get<uint64_t>() == 0 || value->get<uint64_t>() > max) {
    return Invalid(name, fmt::format("an integer in [1, {}]", max));
  }
  out = static_cast<uint32_t>(value->get<uint64_t>());
  return absl::OkStatus();
}

absl::Status ConfigFields::Read(const char* name, double fallback, double& out) const {
  const json* value = Find(name);
  if (value == nullptr && fallback != kRequiredField) {
    out = fallback;
    return absl::OkStatus();
  }
  if (value == nullptr || !value->is_number() || !std::isfinite(value->get<double>()) || value->get<double>() <= 0) {
    return Invalid(name, "a finite number > 0");
  }
  out = value->get<double>();
  return absl::OkStatus();
}

absl::Status ConfigFields::Read(const char* name, bool fallback, bool& out) const {
  const json* value = Find(name);
  if (value != nullptr && !value->is_boolean()) return Invalid(name, "true or false");
  out = value == nullptr ? fallback : value->get<bool>();
  return absl::OkStatus();
}

}  // namespace tributary
