#include "model/model_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"
#include "model/json_text.h"

namespace tributary {
namespace {

using nlohmann::json;

// A fallback for fields that have none: every number read is above 0.
constexpr uint32_t kRequired = 0;

constexpr size_t kMaxConfigBytes = 4u << 20;

struct FamilyRow {
  std::string_view model_type;
  std::string_view architecture;
  ModelFamily family;
};
constexpr std::array<FamilyRow, 4> kFamilies = {{
    {"llama", "LlamaForCausalLM", ModelFamily::kLlama},
    {"mistral", "MistralForCausalLM", ModelFamily::kMistral},
    {"qwen2", "Qwen2ForCausalLM", ModelFamily::kQwen2},
    {"qwen3", "Qwen3ForCausalLM", ModelFamily::kQwen3},
}};

// Typed access to the fields of one JSON object. A field that is null counts as absent, as in
// Hugging Face.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const json* Find(const char* name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  absl::Status Invalid(const char* name, const std::string& expected) const {
    const json* value = Find(name);
    if (value == nullptr) {
      return absl::InvalidArgumentError(fmt::format("{}: field '{}' is missing; expected {}", where_, name, expected));
    }
    return absl::InvalidArgumentError(
        fmt::format("{}: field '{}' is {}; expected {}", where_, name, BriefJson(*value), expected));
  }

  absl::Status Unimplemented(const char* name, const std::string& supported) const {
    const json* value = Find(name);
    return absl::UnimplementedError(fmt::format("{}: '{}' is {}, which is not served; supported: {}", where_, name,
                                                value == nullptr ? "absent" : BriefJson(*value), supported));
  }

  // An integer in [1, max]; `fallback` when absent, an error when that is kRequired.
  absl::Status Read(const char* name, uint32_t max, uint32_t fallback, uint32_t& out) const {
    const json* value = Find(name);
    if (value == nullptr && fallback != kRequired) {
      out = fallback;
      return absl::OkStatus();
    }
    if (value == nullptr || !value->is_number_unsigned() || value->get<uint64_t>() == 0 ||
        value->get<uint64_t>() > max) {
      return Invalid(name, fmt::format("an integer in [1, {}]", max));
    }
    out = static_cast<uint32_t>(value->get<uint64_t>());
    return absl::OkStatus();
  }

  // A finite number > 0; the same for its fallback.
  absl::Status Read(const char* name, double fallback, double& out) const {
    const json* value = Find(name);
    if (value == nullptr && fallback != kRequired) {
      out = fallback;
      return absl::OkStatus();
    }
    if (value == nullptr || !value->is_number() || !std::isfinite(value->get<double>()) || value->get<double>() <= 0) {
      return Invalid(name, "a finite number > 0");
    }
    out = value->get<double>();
    return absl::OkStatus();
  }

  absl::Status Read(const char* name, bool fallback, bool& out) const {
    const json* value = Find(name);
    if (value != nullptr && !value->is_boolean()) return Invalid(name, "true or false");
    out = value == nullptr ? fallback : value->get<bool>();
    return absl::OkStatus();
  }

  bool Has(const char* name) const { return Find(name) != nullptr; }
  const std::string& where() const { return where_; }

 private:
  const json& object_;
  std::string where_;
};

absl::Status ReadFamily(const Fields& fields, ModelConfig& config) {
  const json* type = fields.Find("model_type");
  const auto row = std::find_if(kFamilies.begin(), kFamilies.end(), [&](const FamilyRow& candidate) {
    return type != nullptr && type->is_string() && type->get_ref<const std::string&>() == candidate.model_type;
  });
  if (row == kFamilies.end()) return fields.Unimplemented("model_type", "llama, mistral, qwen2, qwen3");
  config.family = row->family;
  if (const json* names = fields.Find("architectures"); names != nullptr) {
    if (!names->is_array() || names->size() != 1 || !(*names)[0].is_string()) {
      return fields.Invalid("architectures", "a list of one name");
    }
    if ((*names)[0].get_ref<const std::string&>() != row->architecture) {
      return fields.Unimplemented("architectures", std::string(row->architecture));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadGeometry(const Fields& fields, ModelConfig& config) {
  namespace l = limits;
  const bool is_llama = config.family == ModelFamily::kLlama;
  AttentionShape& shape = config.attention;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("num_hidden_layers", l::kMaxLayers, kRequired, config.num_layers));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("hidden_size", l::kMaxHidden, kRequired, config.hidden_size));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("intermediate_size", 8 * l::kMaxHidden, kRequired, config.intermediate_size));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("vocab_size", l::kMaxVocab, kRequired, config.vocab_size));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("num_attention_heads", l::kMaxHeads, kRequired, shape.num_q_heads));
  // Only Llama's default is "as many as query heads"; the others' defaults belong to one size of
  // model.
  const uint32_t kv_default = is_llama ? shape.num_q_heads : kRequired;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("num_key_value_heads", l::kMaxHeads, kv_default, shape.num_kv_heads));
  if (shape.num_q_heads % shape.num_kv_heads != 0 || shape.group_size() > l::kMaxGroupSize) {
    return fields.Invalid("num_key_value_heads",
                          fmt::format("a divisor of num_attention_heads {}, at most {} times smaller",
                                      shape.num_q_heads, l::kMaxGroupSize));
  }
  uint32_t dim_default = kRequired;
  if (config.hidden_size % shape.num_q_heads == 0) dim_default = config.hidden_size / shape.num_q_heads;
  if (config.family == ModelFamily::kQwen3) dim_default = 128;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("head_dim", l::kMaxHeadDim, dim_default, shape.head_dim));
  if (shape.head_dim % 2 != 0 || shape.head_dim > l::kMaxHeadDim) {
    return absl::InvalidArgumentError(fmt::format("{}: head_dim is {}; expected an even number of at most {}",
                                                  fields.where(), shape.head_dim, l::kMaxHeadDim));
  }
  constexpr auto kMaxPositions = static_cast<uint32_t>(l::kMaxContextTokens);
  return fields.Read("max_position_embeddings", kMaxPositions, 2048, config.max_position_embeddings);
}

absl::Status ReadLlama3Scaling(const Fields& scaling, ModelConfig& config) {
  Llama3RopeScaling llama3;
  TRIBUTARY_RETURN_IF_ERROR(scaling.Read("factor", kRequired, llama3.factor));
  TRIBUTARY_RETURN_IF_ERROR(scaling.Read("low_freq_factor", kRequired, llama3.low_freq_factor));
  TRIBUTARY_RETURN_IF_ERROR(scaling.Read("high_freq_factor", kRequired, llama3.high_freq_factor));
  TRIBUTARY_RETURN_IF_ERROR(scaling.Read("original_max_position_embeddings", std::numeric_limits<uint32_t>::max(),
                                         kRequired, llama3.original_max_position_embeddings));
  if (llama3.high_freq_factor <= llama3.low_freq_factor) {
    return scaling.Invalid("high_freq_factor", fmt::format("more than low_freq_factor {}", llama3.low_freq_factor));
  }
  config.rope_scaling = llama3;
  return absl::OkStatus();
}

// The type and scaling factors, in either spelling.
absl::Status ReadScaling(const Fields& scaling, ModelConfig& config) {
  const char* type_name = scaling.Has("rope_type") ? "rope_type" : "type";
  const json* type = scaling.Find(type_name);
  const std::string name = type != nullptr && type->is_string() ? type->get<std::string>() : "";
  if (name == "llama3") return ReadLlama3Scaling(scaling, config);
  if (name != "default") return scaling.Unimplemented(type_name, "default, llama3");
  return absl::OkStatus();
}

// Old files have rope_theta and rope_scaling, new ones rope_parameters with both.
absl::Status ReadRope(const Fields& fields, ModelConfig& config) {
  constexpr double kDefaultTheta = 10000.0;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("rope_theta", kDefaultTheta, config.rope_theta));
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const json* value = fields.Find(name);
    if (value == nullptr) continue;
    if (!value->is_object()) return fields.Invalid(name, "an object or null");
    const Fields scaling(*value, fields.where() + ": " + name);
    TRIBUTARY_RETURN_IF_ERROR(ReadScaling(scaling, config));
    TRIBUTARY_RETURN_IF_ERROR(scaling.Read("rope_theta", config.rope_theta, config.rope_theta));
    double rotary_share = 1.0;
    TRIBUTARY_RETURN_IF_ERROR(scaling.Read("partial_rotary_factor", 1.0, rotary_share));
    if (rotary_share != 1.0) return scaling.Unimplemented("partial_rotary_factor", "1.0");
  }
  return absl::OkStatus();
}

// Sliding windows are served only where they cannot hide a token.
absl::Status RefuseSlidingWindow(const Fields& fields, const ModelConfig& config) {
  if (const json* types = fields.Find("layer_types"); types != nullptr) {
    const bool all_full = types->is_array() && std::all_of(types->begin(), types->end(), [](const json& type) {
                            return type.is_string() && type.get_ref<const std::string&>() == "full_attention";
                          });
    if (!all_full) return fields.Unimplemented("layer_types", "full_attention in every layer");
  }
  const bool is_qwen = config.family == ModelFamily::kQwen2 || config.family == ModelFamily::kQwen3;
  bool used = config.family == ModelFamily::kMistral;
  if (is_qwen) TRIBUTARY_RETURN_IF_ERROR(fields.Read("use_sliding_window", false, used));
  if (!used || !fields.Has("sliding_window")) return absl::OkStatus();
  uint32_t window_tokens = 0;
  TRIBUTARY_RETURN_IF_ERROR(
      fields.Read("sliding_window", std::numeric_limits<uint32_t>::max(), kRequired, window_tokens));
  if (window_tokens >= config.max_position_embeddings) return absl::OkStatus();
  return fields.Unimplemented(
      "sliding_window", fmt::format("null, or at least max_position_embeddings ({})", config.max_position_embeddings));
}

absl::Status ReadBiasesAndNorms(const Fields& fields, ModelConfig& config) {
  bool attention_bias = false;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("attention_bias", false, attention_bias));
  if (config.family == ModelFamily::kMistral && attention_bias) return fields.Unimplemented("attention_bias", "false");
  config.has_qkv_bias = attention_bias || config.family == ModelFamily::kQwen2;
  config.has_o_bias = attention_bias && config.family != ModelFamily::kQwen2;
  config.has_qk_norm = config.family == ModelFamily::kQwen3;
  bool mlp_bias = false;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("mlp_bias", false, mlp_bias));
  if (mlp_bias) return fields.Unimplemented("mlp_bias", "false");
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("rms_norm_eps", 1e-6, config.rms_norm_eps));
  const json* activation = fields.Find("hidden_act");
  if (activation != nullptr && *activation != "silu") return fields.Unimplemented("hidden_act", "silu");
  if (fields.Has("quantization_config"))
    return fields.Unimplemented("quantization_config", "none (bf16, f16 or f32 weights)");
  return fields.Read("tie_word_embeddings", false, config.tie_word_embeddings);
}

absl::Status ReadStoredDType(const Fields& fields, ModelConfig& config) {
  const char* name = fields.Has("dtype") ? "dtype" : "torch_dtype";
  const json* value = fields.Find(name);
  if (value == nullptr) return absl::OkStatus();
  if (*value == "float32") config.stored_dtype = DType::kF32;
  if (*value == "bfloat16") config.stored_dtype = DType::kBf16;
  if (*value == "float16") config.stored_dtype = DType::kF16;
  if (!IsValidDType(config.stored_dtype)) return fields.Unimplemented(name, "float32, bfloat16, float16");
  return absl::OkStatus();
}

// An id, a list of ids, or nothing.
absl::Status AddEosTokens(const Fields& fields, ModelConfig& config) {
  const json* value = fields.Find("eos_token_id");
  if (value == nullptr) return absl::OkStatus();
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= config.vocab_size) {
      return fields.Invalid("eos_token_id", fmt::format("token ids below vocab_size {}", config.vocab_size));
    }
    config.eos_token_ids.push_back(static_cast<uint32_t>(id.get<uint64_t>()));
  }
  std::sort(config.eos_token_ids.begin(), config.eos_token_ids.end());
  const auto last = std::unique(config.eos_token_ids.begin(), config.eos_token_ids.end());
  config.eos_token_ids.erase(last, config.eos_token_ids.end());
  return absl::OkStatus();
}

absl::Status AddGenerationEosTokens(const std::filesystem::path& path, ModelConfig& config) {
  const absl::StatusOr<json> object = ReadJsonFile(path, kMaxConfigBytes);
  if (absl::IsNotFound(object.status())) return absl::OkStatus();
  if (!object.ok()) return object.status();
  return AddEosTokens(Fields(*object, path.string()), config);
}

}  // namespace

double ModelConfig::softmax_scale() const { return 1.0 / std::sqrt(static_cast<double>(attention.head_dim)); }

absl::StatusOr<ModelConfig> LoadModelConfig(const std::filesystem::path& model_dir) {
  const std::filesystem::path path = model_dir / "config.json";
  TRIBUTARY_ASSIGN_OR_RETURN(const json object, ReadJsonFile(path, kMaxConfigBytes));
  const Fields fields(object, path.string());
  ModelConfig config;
  TRIBUTARY_RETURN_IF_ERROR(ReadFamily(fields, config));
  TRIBUTARY_RETURN_IF_ERROR(ReadGeometry(fields, config));
  TRIBUTARY_RETURN_IF_ERROR(ReadRope(fields, config));
  TRIBUTARY_RETURN_IF_ERROR(ReadBiasesAndNorms(fields, config));
  TRIBUTARY_RETURN_IF_ERROR(RefuseSlidingWindow(fields, config));
  TRIBUTARY_RETURN_IF_ERROR(ReadStoredDType(fields, config));
  TRIBUTARY_RETURN_IF_ERROR(AddEosTokens(fields, config));
  TRIBUTARY_RETURN_IF_ERROR(AddGenerationEosTokens(model_dir / "generation_config.json", config));
  return config;
}

namespace {

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between
// interpolated.
float ScaleFrequency(const Llama3RopeScaling& scaling, float frequency) {
  const float original = static_cast<float>(scaling.original_max_position_embeddings);
  const float low = static_cast<float>(scaling.low_freq_factor);
  const float high = static_cast<float>(scaling.high_freq_factor);
  const float factor = static_cast<float>(scaling.factor);
  const float wavelength = static_cast<float>(2.0 * M_PI) / frequency;
  if (wavelength > original / low) return frequency / factor;
  if (wavelength < original / high) return frequency;
  const float smooth = (original / wavelength - low) / (high - low);
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

}  // namespace

std::vector<double> RopeInverseFrequencies(const ModelConfig& config) {
  const uint32_t half = config.attention.head_dim / 2;
  std::vector<double> frequencies(half);
  for (uint32_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.attention.head_dim);
    float frequency = 1.0f / std::pow(static_cast<float>(config.rope_theta), exponent);
    if (config.rope_scaling.has_value()) frequency = ScaleFrequency(*config.rope_scaling, frequency);
    frequencies[i] = frequency;
  }
  return frequencies;
}

}  // namespace tributary
