#include "proto/convert_policy.h"

#include <string>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/outside_text.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

void ValueToProto(const ParameterValue& value, v1::PolicyParameter* message) {
  switch (value.type()) {
    case ParameterType::kNumber:
      return message->set_number(value.number());
    case ParameterType::kCount:
      return message->set_count(value.count());
    case ParameterType::kWord:
      return message->set_word(value.word());
    case ParameterType::kLayers:
      return message->mutable_layers()->mutable_layers()->Assign(value.layers().begin(), value.layers().end());
    case ParameterType::kHeads:
      message->mutable_heads();  // a list without elements is a value, too
      for (const LayerHead& head : value.heads()) {
        v1::LayerHead& added = *message->mutable_heads()->add_heads();
        added.set_layer(head.layer);
        added.set_kv_head(head.kv_head);
      }
      return;
  }
}

absl::Status TooMany(std::string_view what, std::string_view name, size_t has, size_t most) {
  return absl::InvalidArgumentError(fmt::format("{}{} has {} {}; use at most {}",
                                                name.empty() ? "the policy" : "policy parameter ",
                                                Printable(name, kMaxShownBytes), has, what, most));
}

absl::StatusOr<ParameterValue> ValueFromProto(const v1::PolicyParameter& message) {
  switch (message.value_case()) {
    case v1::PolicyParameter::kNumber:
      return message.number();
    case v1::PolicyParameter::kCount:
      return message.count();
    case v1::PolicyParameter::kWord:
      if (message.word().size() > limits::kMaxPolicyWordBytes) {
        return TooMany("bytes", message.name(), message.word().size(), limits::kMaxPolicyWordBytes);
      }
      return message.word();
    case v1::PolicyParameter::kLayers: {
      const auto& layers = message.layers().layers();
      if (layers.size() > static_cast<int>(limits::kMaxLayers)) {
        return TooMany("layers", message.name(), layers.size(), limits::kMaxLayers);
      }
      return std::vector<uint32_t>(layers.begin(), layers.end());
    }
    case v1::PolicyParameter::kHeads: {
      const auto& heads = message.heads().heads();
      if (heads.size() > static_cast<int>(limits::kMaxPolicyHeads)) {
        return TooMany("KV heads", message.name(), heads.size(), limits::kMaxPolicyHeads);
      }
      std::vector<LayerHead> list;
      for (const v1::LayerHead& head : heads) list.push_back({head.layer(), head.kv_head()});
      return list;
    }
    case v1::PolicyParameter::VALUE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(fmt::format(
      "policy parameter '{}' has no value that this build knows; give a number, count, word, layers or heads",
      Printable(message.name(), kMaxShownBytes)));
}

}  // namespace

v1::AttentionPolicy PolicyToProto(const PolicyRequest& policy) {
  v1::AttentionPolicy message;
  message.set_name(policy.name);
  message.set_quality(policy.quality);
  for (const NamedValue& parameter : policy.parameters) {
    v1::PolicyParameter& added = *message.add_parameters();
    added.set_name(parameter.name);
    ValueToProto(parameter.value, &added);
  }
  return message;
}

absl::StatusOr<PolicyRequest> PolicyFromProto(const v1::AttentionPolicy& message) {
  for (const std::string* name : {&message.name(), &message.quality()}) {
    if (name->size() <= limits::kMaxPolicyWordBytes) continue;
    return TooMany("bytes of name", "", name->size(), limits::kMaxPolicyWordBytes);
  }
  if (message.parameters_size() > static_cast<int>(limits::kMaxPolicyParameters)) {
    return TooMany("parameters", "", message.parameters_size(), limits::kMaxPolicyParameters);
  }
  PolicyRequest policy;
  policy.name = message.name();
  policy.quality = message.quality();
  for (const v1::PolicyParameter& parameter : message.parameters()) {
    if (parameter.name().size() > limits::kMaxPolicyWordBytes) {
      return TooMany("bytes of name", parameter.name(), parameter.name().size(), limits::kMaxPolicyWordBytes);
    }
    TRIBUTARY_ASSIGN_OR_RETURN(ParameterValue value, ValueFromProto(parameter));
    policy.parameters.push_back({parameter.name(), std::move(value)});
  }
  return policy;
}

absl::StatusOr<PolicyParams> CompletePolicyFromProto(const v1::AttentionPolicy& message, const PolicyContext& context) {
  TRIBUTARY_ASSIGN_OR_RETURN(const PolicyRequest request, PolicyFromProto(message));
  return ParseComplete(request, context);
}

}  // namespace tributary
