// Which attention policy a request asks for, with its parameters: as asked (PolicyRequest) and as checked and completed
// (PolicyParams). The CLI, admission and the worker all check with the functions here, so that they say the same. Which
// parameters there are is said by the policies' rows (policy/policy_registry.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "policy/parameter.h"

namespace tributary {

struct PolicyRules;

struct NamedValue {
  std::string name;
  ParameterValue value;

  friend bool operator==(const NamedValue&, const NamedValue&) = default;
};

// What was asked for. Comes from outside: nothing in it has been checked.
struct PolicyRequest {
  std::string name;  // "" = dense, or what `quality` stands for
  std::vector<NamedValue> parameters;
  std::string quality = {};  // a named setting instead of name and parameters (policy/quality_levels.h); "" = none

  // Null if it was not given; the first one if it was given twice.
  const ParameterValue* Find(std::string_view parameter) const;
  // Replaces or adds.
  void Set(std::string_view parameter, ParameterValue value);

  friend bool operator==(const PolicyRequest&, const PolicyRequest&) = default;
};

// A checked policy; no parameter is left to a default. Value semantics; refers to the policy's rules, which live as
// long as the process. Each policy reads the values into a struct of its own (ReadSparseParams, for one).
class PolicyParams {
 public:
  PolicyParams();  // dense

  const PolicyRules& rules() const { return *rules_; }
  std::string_view name() const;
  // False: every remote token is read, always.
  bool is_sparse() const;

  // REQUIRES (checked): the policy has such a parameter, of this type.
  double number(std::string_view parameter) const { return Value(parameter).number(); }
  uint64_t count(std::string_view parameter) const { return Value(parameter).count(); }
  const std::string& word(std::string_view parameter) const { return Value(parameter).word(); }
  const std::vector<uint32_t>& layers(std::string_view parameter) const { return Value(parameter).layers(); }
  const std::vector<LayerHead>& heads(std::string_view parameter) const { return Value(parameter).heads(); }

  // Null if the policy has no such parameter.
  const ParameterValue* Find(std::string_view parameter) const;
  // REQUIRES (checked): the policy has the parameter, and the value is of its type. Ranges are the caller's to keep.
  void Set(std::string_view parameter, ParameterValue value);

  friend bool operator==(const PolicyParams&, const PolicyParams&) = default;

 private:
  friend absl::StatusOr<PolicyParams> ResolvePolicy(const PolicyRequest& request, const PolicyContext& context);
  explicit PolicyParams(const PolicyRules& rules);  // every parameter at its default
  const ParameterValue& Value(std::string_view parameter) const;

  const PolicyRules* rules_;
  std::vector<ParameterValue> values_;  // by row of rules_->parameters
};

// Checks and completes. INVALID_ARGUMENT, naming the parameter, its value and what is allowed: an unknown policy,
// quality or parameter, a quality beside what it decides, a parameter of another policy or given twice, a value of
// another type, out of range or not finite, parameters that contradict each other, more than base/limits.h allows.
absl::StatusOr<PolicyParams> ResolvePolicy(const PolicyRequest& request, const PolicyContext& context);

// The request that asks for exactly this, every parameter of the policy stated: how a checked policy travels.
PolicyRequest CompleteRequest(const PolicyParams& params);
// The way back. INVALID_ARGUMENT as of ResolvePolicy, or for a parameter that is not stated: the sender decided, so
// nothing is left to a default of this build.
absl::StatusOr<PolicyParams> ParseComplete(const PolicyRequest& request, const PolicyContext& context);

}  // namespace tributary
