// Typed, checked access to the fields of one JSON object of a model folder. For the .cc files of model/.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace tributary {

// A fallback for fields that have none: every number that is read is above 0.
inline constexpr uint32_t kRequiredField = 0;

// A field that is null counts as absent, as in Hugging Face. Errors name the file (`where`), the field, its value and
// what is expected or supported. Borrows the object.
class ConfigFields {
 public:
  ConfigFields(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const nlohmann::json* Find(const char* name) const;
  bool Has(const char* name) const { return Find(name) != nullptr; }
  // The field is there, and null.
  bool IsNull(const char* name) const;
  bool IsZero(const char* name) const;
  const std::string& where() const { return where_; }

  absl::Status Invalid(const char* name, const std::string& expected) const;
  absl::Status Unimplemented(const char* name, const std::string& supported) const;

  // An integer in [1, max]; `fallback` when absent, an error when that is kRequiredField.
  absl::Status Read(const char* name, uint32_t max, uint32_t fallback, uint32_t& out) const;
  // A finite number > 0; the same for its fallback.
  absl::Status Read(const char* name, double fallback, double& out) const;
  absl::Status Read(const char* name, bool fallback, bool& out) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
};

}  // namespace tributary
