#include "model/rope.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

using nlohmann::json;

constexpr std::string_view kTypeNames = "default, linear, dynamic, llama3, yarn, longrope";

struct TypeRow {
  std::string_view name;
  RopeType type;
};
// "su" is what the first models with longrope called it.
constexpr std::array<TypeRow, 7> kTypes = {{{"default", RopeType::kDefault},
                                            {"linear", RopeType::kLinear},
                                            {"dynamic", RopeType::kDynamic},
                                            {"llama3", RopeType::kLlama3},
                                            {"yarn", RopeType::kYarn},
                                            {"longrope", RopeType::kLongrope},
                                            {"su", RopeType::kLongrope}}};

absl::Status ReadType(const ConfigFields& fields, RopeParameters& rope) {
  // Files have either name; the one that is there is the one to complain about.
  const char* const name = fields.Has("type") && !fields.Has("rope_type") ? "type" : "rope_type";
  const json* value = fields.Find(name);
  if (value == nullptr) {
    for (const char* scales : {"factor", "short_factor", "long_factor", "low_freq_factor"}) {
      if (fields.Has(scales)) return fields.Unimplemented(name, std::string(kTypeNames));
    }
    rope.type = RopeType::kDefault;
    return absl::OkStatus();
  }
  for (const TypeRow& row : kTypes) {
    if (!value->is_string() || value->get_ref<const std::string&>() != row.name) continue;
    rope.type = row.type;
    return absl::OkStatus();
  }
  return fields.Unimplemented(name, std::string(kTypeNames));
}

absl::Status ReadOriginalLength(const ConfigFields& fields, uint32_t fallback, RopeParameters& rope) {
  return fields.Read("original_max_position_embeddings", std::numeric_limits<uint32_t>::max(), fallback,
                     rope.original_max_position_embeddings);
}

absl::Status ReadLlama3(const ConfigFields& fields, RopeParameters& rope) {
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("low_freq_factor", double{kRequiredField}, rope.low_freq_factor));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("high_freq_factor", double{kRequiredField}, rope.high_freq_factor));
  TRIBUTARY_RETURN_IF_ERROR(ReadOriginalLength(fields, kRequiredField, rope));
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    return fields.Invalid("high_freq_factor", fmt::format("more than low_freq_factor {}", rope.low_freq_factor));
  }
  return absl::OkStatus();
}

// The growth of attention that YaRN makes up for.
double YarnScale(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

absl::Status ReadYarn(const ConfigFields& fields, const RopeContext& context, RopeParameters& rope) {
  TRIBUTARY_RETURN_IF_ERROR(ReadOriginalLength(fields, context.max_position_embeddings, rope));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("beta_fast", 32.0, rope.beta_fast));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("beta_slow", 1.0, rope.beta_slow));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("truncate", true, rope.truncate));
  double attention_factor = YarnScale(rope.factor, 1.0);
  if (fields.Has("mscale") && fields.Has("mscale_all_dim")) {
    double mscale = 0, mscale_all_dim = 0;
    TRIBUTARY_RETURN_IF_ERROR(fields.Read("mscale", 1.0, mscale));
    TRIBUTARY_RETURN_IF_ERROR(fields.Read("mscale_all_dim", 1.0, mscale_all_dim));
    attention_factor = YarnScale(rope.factor, mscale) / YarnScale(rope.factor, mscale_all_dim);
  }
  return fields.Read("attention_factor", attention_factor, rope.attention_factor);
}

absl::Status ReadFactors(const ConfigFields& fields, const char* name, uint32_t count, std::vector<float>& factors) {
  const json* value = fields.Find(name);
  const std::string expected =
      fmt::format("a list of {} finite numbers > 0, half of the elements of a head that turn", count);
  if (value == nullptr || !value->is_array() || value->size() != count) return fields.Invalid(name, expected);
  factors.clear();
  for (const json& factor : *value) {
    if (!factor.is_number() || !std::isfinite(factor.get<double>()) || factor.get<double>() <= 0) {
      return fields.Invalid(name, expected);
    }
    factors.push_back(static_cast<float>(factor.get<double>()));
  }
  return absl::OkStatus();
}

absl::Status ReadLongrope(const ConfigFields& fields, const RopeContext& context, RopeParameters& rope) {
  const bool in_config = context.original_max_position_embeddings != 0;
  TRIBUTARY_RETURN_IF_ERROR(ReadOriginalLength(
      fields, in_config ? context.original_max_position_embeddings : context.max_position_embeddings, rope));
  TRIBUTARY_RETURN_IF_ERROR(ReadFactors(fields, "short_factor", context.rotary_dim / 2, rope.short_factor));
  TRIBUTARY_RETURN_IF_ERROR(ReadFactors(fields, "long_factor", context.rotary_dim / 2, rope.long_factor));
  const double original = rope.original_max_position_embeddings;
  const double ratio = context.max_position_embeddings / original;
  // The config's own two lengths overrule a factor.
  if (in_config || !fields.Has("factor")) rope.factor = ratio;
  const double fallback = rope.factor <= 1 ? 1.0 : std::sqrt(1.0 + std::log(rope.factor) / std::log(original));
  return fields.Read("attention_factor", fallback, rope.attention_factor);
}

float Power(float base, uint32_t pair, uint32_t rotary_dim) {
  return std::pow(base, static_cast<float>(2 * pair) / static_cast<float>(rotary_dim));
}

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between interpolated.
float Llama3Frequency(const RopeParameters& rope, float frequency) {
  const float original = static_cast<float>(rope.original_max_position_embeddings);
  const float low = static_cast<float>(rope.low_freq_factor);
  const float high = static_cast<float>(rope.high_freq_factor);
  const float factor = static_cast<float>(rope.factor);
  const float wavelength = static_cast<float>(2.0 * M_PI) / frequency;
  if (wavelength > original / low) return frequency / factor;
  if (wavelength < original / high) return frequency;
  const float smooth = (original / wavelength - low) / (high - low);
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

// YaRN (arXiv 2309.00071): pairs that turn often keep their frequency, those that turn seldom are stretched, those
// between are blended.
std::vector<float> YarnFrequencies(const RopeParameters& rope, uint32_t rotary_dim) {
  const uint32_t half = rotary_dim / 2;
  const auto pair_of_turns = [&](double turns) {
    return rotary_dim * std::log(rope.original_max_position_embeddings / (turns * 2 * M_PI)) /
           (2 * std::log(rope.theta));
  };
  double low = pair_of_turns(rope.beta_fast), high = pair_of_turns(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rotary_dim - 1.0);
  if (low == high) high += 0.001;
  std::vector<float> frequencies(half);
  for (uint32_t i = 0; i < half; ++i) {
    const float power = Power(static_cast<float>(rope.theta), i, rotary_dim);
    const float kept = 1.0f / power;
    const float stretched = 1.0f / (static_cast<float>(rope.factor) * power);
    const float ramp = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float keep = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
    frequencies[i] = stretched * (1.0f - keep) + kept * keep;
  }
  return frequencies;
}

// The base of dynamic NTK scaling, which grows with the context.
float DynamicTheta(const RopeParameters& rope, uint32_t rotary_dim, uint64_t context_tokens) {
  const double original = rope.original_max_position_embeddings;
  const double tokens = std::max(static_cast<double>(context_tokens), original);
  const double growth = rope.factor * tokens / original - (rope.factor - 1);
  return static_cast<float>(rope.theta * std::pow(growth, rotary_dim / (rotary_dim - 2.0)));
}

}  // namespace

absl::Status ReadRopeParameters(const ConfigFields& fields, const RopeContext& context, RopeParameters& rope) {
  TRIBUTARY_RETURN_IF_ERROR(ReadType(fields, rope));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("rope_theta", rope.theta, rope.theta));
  double rotary_share = 1.0;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("partial_rotary_factor", context.rotary_share, rotary_share));
  if (rotary_share != context.rotary_share) {
    return fields.Unimplemented("partial_rotary_factor", fmt::format("{}", context.rotary_share));
  }
  const bool needs_factor = rope.type != RopeType::kDefault && rope.type != RopeType::kLongrope;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("factor", needs_factor ? double{kRequiredField} : 1.0, rope.factor));
  if (rope.type == RopeType::kDynamic) {
    // Hugging Face takes the config's own length here, whatever the object says.
    rope.original_max_position_embeddings = context.max_position_embeddings;
    if (context.rotary_dim <= 2 || rope.factor < 1)
      return fields.Invalid("factor", "at least 1, with more than two elements of a head that turn");
  }
  if (rope.type == RopeType::kLlama3) return ReadLlama3(fields, rope);
  if (rope.type == RopeType::kYarn) return ReadYarn(fields, context, rope);
  if (rope.type == RopeType::kLongrope) return ReadLongrope(fields, context, rope);
  return absl::OkStatus();
}

std::vector<float> RopeInverseFrequencies(const RopeParameters& rope, uint32_t rotary_dim, uint64_t context_tokens) {
  if (rope.type == RopeType::kYarn) return YarnFrequencies(rope, rotary_dim);
  const uint32_t half = rotary_dim / 2;
  const bool dynamic = rope.type == RopeType::kDynamic;
  const float theta = dynamic ? DynamicTheta(rope, rotary_dim, context_tokens) : static_cast<float>(rope.theta);
  const std::vector<float>& stretch =
      context_tokens > rope.original_max_position_embeddings ? rope.long_factor : rope.short_factor;
  std::vector<float> frequencies(half);
  for (uint32_t i = 0; i < half; ++i) {
    const float power = Power(theta, i, rotary_dim);
    frequencies[i] = 1.0f / (rope.type == RopeType::kLongrope ? stretch[i] * power : power);
    if (rope.type == RopeType::kLinear) frequencies[i] /= static_cast<float>(rope.factor);
    if (rope.type == RopeType::kLlama3) frequencies[i] = Llama3Frequency(rope, frequencies[i]);
  }
  return frequencies;
}

}  // namespace tributary
