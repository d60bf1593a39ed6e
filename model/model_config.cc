#include "model/model_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"
#include "model/config_fields.h"
#include "model/json_text.h"
#include "model/model_families.h"
#include "model/model_folder.h"

namespace tributary {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = 4u << 20;
constexpr uint32_t kMaxWindow = std::numeric_limits<uint32_t>::max();

// Llama's first files spelled it so.
constexpr std::string_view kOldLlama = "LLaMAForCausalLM";

absl::StatusOr<const FamilyRow*> ReadFamily(const ConfigFields& fields) {
  const json* type = fields.Find("model_type");
  const auto rows = ModelFamilies();
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const FamilyRow& candidate) {
    return type != nullptr && type->is_string() && type->get_ref<const std::string&>() == candidate.model_type;
  });
  if (row == rows.end()) return fields.Unimplemented("model_type", ModelFamilyNames());
  const json* names = fields.Find("architectures");
  if (names == nullptr) return &*row;
  if (!names->is_array() || names->empty()) return fields.Invalid("architectures", "a list of names");
  const bool served = std::any_of(names->begin(), names->end(), [&](const json& name) {
    if (!name.is_string()) return false;
    const std::string& text = name.get_ref<const std::string&>();
    return text == row->architecture || (row->family == ModelFamily::kLlama && text == kOldLlama);
  });
  if (!served) return fields.Unimplemented("architectures", std::string(row->architecture));
  return &*row;
}

absl::Status ReadGeometry(const ConfigFields& fields, const FamilyRow& family, ModelConfig& config) {
  namespace l = limits;
  AttentionShape& shape = config.attention;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("num_hidden_layers", l::kMaxLayers, kRequiredField, config.num_layers));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("hidden_size", l::kMaxHidden, kRequiredField, config.hidden_size));
  TRIBUTARY_RETURN_IF_ERROR(
      fields.Read("intermediate_size", 8 * l::kMaxHidden, kRequiredField, config.intermediate_size));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("vocab_size", l::kMaxVocab, kRequiredField, config.vocab_size));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("num_attention_heads", l::kMaxHeads, kRequiredField, shape.num_q_heads));
  const uint32_t kv_default = family.kv_heads_default_to_query_heads ? shape.num_q_heads : kRequiredField;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("num_key_value_heads", l::kMaxHeads, kv_default, shape.num_kv_heads));
  if (shape.num_q_heads % shape.num_kv_heads != 0 || shape.group_size() > l::kMaxGroupSize) {
    return fields.Invalid("num_key_value_heads",
                          fmt::format("a divisor of num_attention_heads {}, at most {} times smaller",
                                      shape.num_q_heads, l::kMaxGroupSize));
  }
  uint32_t dim_default = kRequiredField;
  if (config.hidden_size % shape.num_q_heads == 0) dim_default = config.hidden_size / shape.num_q_heads;
  if (family.head_dim != 0) dim_default = family.head_dim;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("head_dim", l::kMaxHeadDim, dim_default, shape.head_dim));
  if (shape.head_dim % 2 != 0 || shape.head_dim > l::kMaxHeadDim) {
    return absl::InvalidArgumentError(fmt::format("{}: head_dim is {}; expected an even number of at most {}",
                                                  fields.where(), shape.head_dim, l::kMaxHeadDim));
  }
  config.softmax_scale = 1.0 / std::sqrt(static_cast<double>(shape.head_dim));
  config.layers.resize(config.num_layers);
  constexpr auto kMaxPositions = static_cast<uint32_t>(l::kMaxContextTokens);
  return fields.Read("max_position_embeddings", kMaxPositions, family.max_position_embeddings,
                     config.max_position_embeddings);
}

// One object of parameters, or one for each kind of layer, each by itself.
absl::Status ReadRopeObject(const ConfigFields& fields, const char* name, const RopeContext& context,
                            ModelConfig& config) {
  const json* value = fields.Find(name);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_object()) return fields.Invalid(name, "an object or null");
  const ConfigFields object(*value, fields.where() + ": " + name);
  if (!object.Has("full_attention") && !object.Has("sliding_attention")) {
    return ReadRopeParameters(object, context, config.ropes[0]);
  }
  const RopeParameters common = config.ropes[0];
  const char* const kinds[] = {"full_attention", "sliding_attention"};
  for (size_t i = 0; i < std::size(kinds); ++i) {
    const json* nested = object.Find(kinds[i]);
    if (nested == nullptr) continue;
    if (!nested->is_object()) return object.Invalid(kinds[i], "an object or null");
    config.ropes.resize(std::max(config.ropes.size(), i + 1), common);
    const ConfigFields kind(*nested, object.where() + ": " + kinds[i]);
    TRIBUTARY_RETURN_IF_ERROR(ReadRopeParameters(kind, context, config.ropes[i]));
  }
  return absl::OkStatus();
}

// Which share of a head's elements turns: said by the config itself, or in new files by the object with RoPE's
// parameters.
absl::Status ReadRotaryShare(const ConfigFields& fields, const FamilyRow& family, ModelConfig& config,
                             double& rotary_share) {
  constexpr const char* kName = "partial_rotary_factor";
  rotary_share = family.rotary_share;
  const json* object = fields.Find("rope_parameters");
  if (fields.Has(kName)) {
    TRIBUTARY_RETURN_IF_ERROR(fields.Read(kName, double{kRequiredField}, rotary_share));
  } else if (family.may_turn_partly && object != nullptr && object->is_object()) {
    TRIBUTARY_RETURN_IF_ERROR(
        ConfigFields(*object, fields.where() + ": rope_parameters").Read(kName, rotary_share, rotary_share));
  }
  if (rotary_share != 1.0 && !family.may_turn_partly) return fields.Unimplemented(kName, "1.0");
  const uint32_t head_dim = config.attention.head_dim;
  // Rounded down, as Hugging Face does.
  config.rotary_dim = static_cast<uint32_t>(std::min(rotary_share, 2.0) * head_dim);
  if (config.rotary_dim == 0 || config.rotary_dim > head_dim || config.rotary_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        fmt::format("{}: {} is {}, of {} elements of a head; expected a share that is an even number of them",
                    fields.where(), kName, rotary_share, head_dim));
  }
  return absl::OkStatus();
}

// Old files have rope_theta and rope_scaling, new ones rope_parameters with both.
absl::Status ReadRope(const ConfigFields& fields, const FamilyRow& family, ModelConfig& config) {
  config.ropes.resize(1);
  const bool says_nothing = !fields.Has("rope_scaling") && !fields.IsNull("rope_scaling") &&
                            !fields.Has("rope_parameters") && !fields.IsNull("rope_parameters");
  if (family.rope != nullptr && says_nothing) config.ropes[0] = family.rope();
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("rope_theta", family.rope_theta, config.ropes[0].theta));
  RopeContext context{.max_position_embeddings = config.max_position_embeddings};
  TRIBUTARY_RETURN_IF_ERROR(ReadRotaryShare(fields, family, config, context.rotary_share));
  context.rotary_dim = config.rotary_dim;
  if (fields.Has("original_max_position_embeddings")) {
    TRIBUTARY_RETURN_IF_ERROR(fields.Read("original_max_position_embeddings", kMaxWindow, kRequiredField,
                                          context.original_max_position_embeddings));
  }
  // Of two objects the old one counts, if it says anything.
  const json* old = fields.Find("rope_scaling");
  const bool is_old = old != nullptr && (!old->is_object() || !old->empty());
  return ReadRopeObject(fields, is_old ? "rope_scaling" : "rope_parameters", context, config);
}

// Values may each be in range, and together be none that can be computed with.
absl::Status CheckRopes(const ConfigFields& fields, const ModelConfig& config) {
  for (const RopeParameters& rope : config.ropes) {
    bool finite = std::isfinite(static_cast<float>(rope.attention_factor));
    for (const uint64_t tokens : {uint64_t{1}, uint64_t{rope.original_max_position_embeddings} + 1}) {
      for (const float frequency : RopeInverseFrequencies(rope, config.rotary_dim, tokens)) {
        finite = finite && std::isfinite(frequency);
      }
    }
    if (!finite) {
      return absl::InvalidArgumentError(
          fmt::format("{}: rope_theta {}, factor {} and original_max_position_embeddings {} give angles that are no "
                      "numbers; check them",
                      fields.where(), rope.theta, rope.factor, rope.original_max_position_embeddings));
    }
  }
  return absl::OkStatus();
}

// The window of the layers that slide; 0: none does.
absl::Status ReadWindow(const ConfigFields& fields, const FamilyRow& family, uint32_t& window_tokens) {
  window_tokens = 0;
  const bool is_optional = family.sliding == SlidingRule::kFromMaxWindowLayers ||
                           family.sliding == SlidingRule::kAllIfUsed ||
                           family.sliding == SlidingRule::kNoRopeLayersIfUsed;
  bool used = family.sliding != SlidingRule::kNever;
  if (is_optional) TRIBUTARY_RETURN_IF_ERROR(fields.Read("use_sliding_window", false, used));
  if (!used) return absl::OkStatus();
  // Hugging Face tells null, which is no window, from an absent field, which is the family's default.
  if (fields.Has("sliding_window")) return fields.Read("sliding_window", kMaxWindow, kRequiredField, window_tokens);
  if (!fields.IsNull("sliding_window")) window_tokens = family.sliding_window;
  return absl::OkStatus();
}

// Whether a layer slides by the family's rule. Layers without RoPE are known only after the family's own fields.
absl::Status SlidesByRule(const ConfigFields& fields, const FamilyRow& family, const ModelConfig& config,
                          std::vector<bool>& slides) {
  uint32_t from = 0, pattern = 0;
  const bool by_layer = family.sliding == SlidingRule::kFromMaxWindowLayers;
  if (by_layer && fields.Has("max_window_layers") && !fields.IsZero("max_window_layers")) {
    TRIBUTARY_RETURN_IF_ERROR(fields.Read("max_window_layers", kMaxWindow, kRequiredField, from));
  } else if (by_layer && !fields.Has("max_window_layers")) {
    from = 28;
  }
  if (family.sliding == SlidingRule::kEachSecond) pattern = 2;
  if (family.sliding == SlidingRule::kAllButEachPatternLast) {
    TRIBUTARY_RETURN_IF_ERROR(fields.Read("sliding_window_pattern", limits::kMaxLayers, 6u, pattern));
  }
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    slides[layer] = family.sliding == SlidingRule::kNoRopeLayersIfUsed ? config.layers[layer].rope == kNoRope
                    : pattern != 0                                     ? (layer + 1) % pattern != 0
                                                                       : layer >= from;
  }
  return absl::OkStatus();
}

// "layer_types" overrules the family's rule.
absl::Status ReadSlidingLayers(const ConfigFields& fields, const FamilyRow& family, ModelConfig& config) {
  uint32_t window_tokens = 0;
  TRIBUTARY_RETURN_IF_ERROR(ReadWindow(fields, family, window_tokens));
  std::vector<bool> slides(config.num_layers);
  const bool by_kind = family.sliding == SlidingRule::kAllButEachPatternLast;  // whatever the window
  if (window_tokens != 0 || by_kind) TRIBUTARY_RETURN_IF_ERROR(SlidesByRule(fields, family, config, slides));
  if (const json* types = fields.Find("layer_types"); types != nullptr) {
    const std::string expected = fmt::format("a list of {} names", config.num_layers);
    if (!types->is_array() || types->size() != config.num_layers) return fields.Invalid("layer_types", expected);
    for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
      const json& type = (*types)[layer];
      if (type != "full_attention" && type != "sliding_attention") {
        return fields.Unimplemented("layer_types", "full_attention, sliding_attention");
      }
      slides[layer] = type == "sliding_attention";
      if (slides[layer] && window_tokens == 0 && !by_kind) {
        return fields.Invalid("sliding_window", "a number, since layer_types names sliding_attention");
      }
    }
  }
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) config.layers[layer].is_sliding = slides[layer];
  // A window that no context outgrows hides nothing.
  if (window_tokens >= config.max_position_embeddings) return absl::OkStatus();
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    if (slides[layer]) config.layers[layer].sliding_window_tokens = window_tokens;
  }
  return absl::OkStatus();
}

absl::Status ReadBiasesAndNorms(const ConfigFields& fields, const FamilyRow& family, ModelConfig& config) {
  bool attention_bias = false;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("attention_bias", family.attention_bias, attention_bias));
  if (config.family == ModelFamily::kMistral && attention_bias) return fields.Unimplemented("attention_bias", "false");
  config.has_qkv_bias = config.has_o_bias = attention_bias;
  bool mlp_bias = false;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("mlp_bias", false, mlp_bias));
  if (mlp_bias) return fields.Unimplemented("mlp_bias", "false");
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("rms_norm_eps", family.rms_norm_eps, config.rms_norm_eps));
  if (fields.Has("quantization_config")) {
    return fields.Unimplemented("quantization_config",
                                "none (bf16, f16 or f32 weights); load the model with Transformers, dequantize it and "
                                "save it, or take the unquantized folder that it was made of");
  }
  return fields.Read("tie_word_embeddings", family.tie_word_embeddings, config.tie_word_embeddings);
}

// The activation has either of two names in the files.
absl::Status CheckActivation(const ConfigFields& fields, const ModelConfig& config) {
  const char* const served = config.activation == Activation::kGeluTanh ? "gelu_pytorch_tanh" : "silu";
  for (const char* name : {"hidden_act", "hidden_activation"}) {
    const json* activation = fields.Find(name);
    if (activation != nullptr && *activation != served) return fields.Unimplemented(name, served);
  }
  return absl::OkStatus();
}

absl::Status ReadStoredDType(const ConfigFields& fields, ModelConfig& config) {
  const char* name = fields.Has("dtype") ? "dtype" : "torch_dtype";
  const json* value = fields.Find(name);
  if (value == nullptr || *value == "auto") return absl::OkStatus();
  if (*value == "float32") config.stored_dtype = DType::kF32;
  if (*value == "bfloat16") config.stored_dtype = DType::kBf16;
  if (*value == "float16") config.stored_dtype = DType::kF16;
  if (!IsValidDType(config.stored_dtype)) return fields.Unimplemented(name, "float32, bfloat16, float16, auto");
  return absl::OkStatus();
}

// An id, a list of ids, or nothing.
absl::Status AddEosTokens(const ConfigFields& fields, ModelConfig& config) {
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
  return AddEosTokens(ConfigFields(*object, path.string()), config);
}

}  // namespace

uint64_t ModelConfig::max_context_tokens() const {
  double factor = 1;
  for (const RopeParameters& rope : ropes) {
    if (rope.type == RopeType::kDynamic) factor = std::max(factor, rope.factor);
  }
  const double tokens = factor * max_position_embeddings;
  return static_cast<uint64_t>(std::min(tokens, static_cast<double>(limits::kMaxContextTokens)));
}

std::vector<uint32_t> ModelConfig::windowed_layers() const {
  std::vector<uint32_t> windowed;
  for (uint32_t layer = 0; layer < num_layers; ++layer) {
    if (layers[layer].sliding_window_tokens != 0) windowed.push_back(layer);
  }
  return windowed;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::filesystem::path& model_dir) {
  TRIBUTARY_RETURN_IF_ERROR(CheckModelFolder(model_dir));
  const std::filesystem::path path = model_dir / "config.json";
  TRIBUTARY_ASSIGN_OR_RETURN(const json object, ReadJsonFile(path, kMaxConfigBytes));
  const ConfigFields fields(object, path.string());
  ModelConfig config;
  TRIBUTARY_ASSIGN_OR_RETURN(const FamilyRow* family, ReadFamily(fields));
  config.family = family->family;
  TRIBUTARY_RETURN_IF_ERROR(ReadGeometry(fields, *family, config));
  TRIBUTARY_RETURN_IF_ERROR(ReadRope(fields, *family, config));
  TRIBUTARY_RETURN_IF_ERROR(ReadBiasesAndNorms(fields, *family, config));
  // Gemma's bases follow from which layers slide, and SmolLM3's sliding layers from which have none.
  const bool slides_last = family->sliding == SlidingRule::kNoRopeLayersIfUsed;
  if (!slides_last) TRIBUTARY_RETURN_IF_ERROR(ReadSlidingLayers(fields, *family, config));
  if (family->read != nullptr) TRIBUTARY_RETURN_IF_ERROR(family->read(fields, config));
  if (slides_last) TRIBUTARY_RETURN_IF_ERROR(ReadSlidingLayers(fields, *family, config));
  TRIBUTARY_RETURN_IF_ERROR(CheckActivation(fields, config));
  TRIBUTARY_RETURN_IF_ERROR(CheckRopes(fields, config));
  TRIBUTARY_RETURN_IF_ERROR(ReadStoredDType(fields, config));
  TRIBUTARY_RETURN_IF_ERROR(AddEosTokens(fields, config));
  TRIBUTARY_RETURN_IF_ERROR(AddGenerationEosTokens(model_dir / "generation_config.json", config));
  return config;
}

}  // namespace tributary
