#include "model/model_families.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

using nlohmann::json;

constexpr uint32_t kMaxExperts = 1024;  // of a layer
constexpr uint32_t kMaxExpertsOfModel = 65536;
constexpr double kSwigluLimit = 7.0;  // Activation::kClampedSwiglu

absl::Status ReadQwen2(const ConfigFields&, ModelConfig& config) {
  config.has_qkv_bias = true;
  config.has_o_bias = false;
  return absl::OkStatus();
}

absl::Status ReadQwen3(const ConfigFields&, ModelConfig& config) {
  config.qk_norm = QkNorm::kPerHead;
  return absl::OkStatus();
}

absl::Status ReadPhi3(const ConfigFields&, ModelConfig& config) {
  config.has_fused_qkv = config.has_fused_gate_up = true;
  return absl::OkStatus();
}

absl::Status ReadGlm(const ConfigFields&, ModelConfig& config) {
  config.has_fused_gate_up = true;
  config.turns_neighbours = true;
  config.has_o_bias = false;
  return absl::OkStatus();
}

absl::Status ReadGlm4(const ConfigFields& fields, ModelConfig& config) {
  config.norm_placement = NormPlacement::kBeforeAndAfter;
  config.has_glm_norm_names = true;
  return ReadGlm(fields, config);
}

// Each fourth layer has no position embedding, or "no_rope_layers" says which, with 1 for those that have one.
absl::Status ReadSmolLm3(const ConfigFields& fields, ModelConfig& config) {
  uint32_t interval = 0;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("no_rope_layer_interval", limits::kMaxLayers, 4u, interval));
  const json* has_rope = fields.Find("no_rope_layers");
  if (has_rope != nullptr && (!has_rope->is_array() || has_rope->size() != config.num_layers)) {
    return fields.Invalid("no_rope_layers", fmt::format("a list of {} numbers, 0 or 1", config.num_layers));
  }
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    bool rotates = (layer + 1) % interval != 0;
    if (has_rope != nullptr) {
      const json& value = (*has_rope)[layer];
      if (!value.is_number_unsigned()) {
        return fields.Invalid("no_rope_layers", fmt::format("a list of {} numbers, 0 or 1", config.num_layers));
      }
      rotates = value.get<uint64_t>() != 0;
    }
    if (!rotates) config.layers[layer].rope = kNoRope;
  }
  return absl::OkStatus();
}

absl::Status ReadOlmo2(const ConfigFields& fields, ModelConfig& config) {
  // Its norms over all heads come behind the bias.
  if (config.has_qkv_bias) return fields.Unimplemented("attention_bias", "false");
  config.norm_placement = NormPlacement::kAfter;
  config.qk_norm = QkNorm::kWholeProjection;
  return absl::OkStatus();
}

absl::Status ReadGranite(const ConfigFields& fields, ModelConfig& config) {
  double logits_scaling = 1.0;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("embedding_multiplier", 1.0, config.embedding_scale));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("residual_multiplier", 1.0, config.residual_scale));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("attention_multiplier", 1.0, config.softmax_scale));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("logits_scaling", 1.0, logits_scaling));
  config.logits_scale = 1.0 / logits_scaling;
  return absl::OkStatus();
}

// What the Gemmas have in common.
absl::Status ReadGemma(const ConfigFields& fields, ModelConfig& config) {
  config.norm_weight_offset = 1.0;
  config.norm_placement = NormPlacement::kBeforeAndAfter;
  config.activation = Activation::kGeluTanh;
  config.embedding_scale = std::sqrt(static_cast<double>(config.hidden_size));
  double scalar = 0;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("query_pre_attn_scalar", 256.0, scalar));
  config.softmax_scale = 1.0 / std::sqrt(scalar);
  bool bidirectional = false;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("use_bidirectional_attention", false, bidirectional));
  return bidirectional ? fields.Unimplemented("use_bidirectional_attention", "false") : absl::OkStatus();
}

// An absent cap is the family's, and null is none.
absl::Status ReadSoftCap(const ConfigFields& fields, const char* name, double family_cap, double& cap) {
  cap = fields.IsNull(name) ? 0 : family_cap;
  if (fields.Has(name)) TRIBUTARY_RETURN_IF_ERROR(fields.Read(name, double{kRequiredField}, cap));
  if (cap == 0 || (cap >= limits::kMinSoftCap && cap <= limits::kMaxSoftCap)) return absl::OkStatus();
  return fields.Invalid(name, fmt::format("null or a number in [{}, {}]", limits::kMinSoftCap, limits::kMaxSoftCap));
}

absl::Status ReadGemma2(const ConfigFields& fields, ModelConfig& config) {
  TRIBUTARY_RETURN_IF_ERROR(ReadGemma(fields, config));
  TRIBUTARY_RETURN_IF_ERROR(ReadSoftCap(fields, "attn_logit_softcapping", 50.0, config.attention_soft_cap));
  return ReadSoftCap(fields, "final_logit_softcapping", 30.0, config.logits_soft_cap);
}

absl::Status ReadGemma3(const ConfigFields& fields, ModelConfig& config) {
  TRIBUTARY_RETURN_IF_ERROR(ReadGemma(fields, config));
  config.qk_norm = QkNorm::kPerHead;
  if (fields.Has("attn_logit_softcapping")) return fields.Unimplemented("attn_logit_softcapping", "null");
  TRIBUTARY_RETURN_IF_ERROR(ReadSoftCap(fields, "final_logit_softcapping", 0, config.logits_soft_cap));
  // Windowed layers turn by a base of their own, which is not scaled. Newer files nest both in rope_parameters.
  if (config.ropes.size() == 1) {
    RopeParameters local;
    TRIBUTARY_RETURN_IF_ERROR(fields.Read("rope_local_base_freq", 10000.0, local.theta));
    config.ropes.push_back(local);
  }
  for (LayerSpec& layer : config.layers) layer.rope = layer.is_sliding ? 1 : 0;
  return absl::OkStatus();
}

absl::Status ReadExperts(const ConfigFields& fields, const char* num_experts, uint32_t default_experts,
                         uint32_t default_per_token, ModelConfig& config) {
  TRIBUTARY_RETURN_IF_ERROR(fields.Read(num_experts, kMaxExperts, default_experts, config.moe.num_experts));
  const uint32_t per_token = std::min(default_per_token, config.moe.num_experts);
  TRIBUTARY_RETURN_IF_ERROR(
      fields.Read("num_experts_per_tok", config.moe.num_experts, per_token, config.moe.experts_per_token));
  if (config.moe.num_experts * config.num_layers > kMaxExpertsOfModel) {
    return fields.Invalid(num_experts,
                          fmt::format("at most {} experts in all {} layers", kMaxExpertsOfModel, config.num_layers));
  }
  return absl::OkStatus();
}

absl::Status ReadMixtral(const ConfigFields& fields, ModelConfig& config) {
  config.moe.tensors = ExpertTensors::kMixtral;
  TRIBUTARY_RETURN_IF_ERROR(ReadExperts(fields, "num_local_experts", 8, 2, config));
  config.moe.intermediate_size = config.intermediate_size;
  for (LayerSpec& layer : config.layers) layer.is_moe = true;
  return absl::OkStatus();
}

absl::Status ReadQwen3Moe(const ConfigFields& fields, ModelConfig& config) {
  config.qk_norm = QkNorm::kPerHead;
  TRIBUTARY_RETURN_IF_ERROR(ReadExperts(fields, "num_experts", 128, 8, config));
  TRIBUTARY_RETURN_IF_ERROR(
      fields.Read("moe_intermediate_size", 8 * limits::kMaxHidden, 768u, config.moe.intermediate_size));
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("norm_topk_prob", false, config.moe.normalises_weights));
  uint32_t step = 1;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("decoder_sparse_step", limits::kMaxLayers, 1u, step));
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) config.layers[layer].is_moe = (layer + 1) % step == 0;
  const json* dense = fields.Find("mlp_only_layers");
  if (dense == nullptr) return absl::OkStatus();
  const std::string expected = fmt::format("a list of layers below {}", config.num_layers);
  if (!dense->is_array()) return fields.Invalid("mlp_only_layers", expected);
  for (const json& layer : *dense) {
    if (!layer.is_number_unsigned() || layer.get<uint64_t>() >= config.num_layers) {
      return fields.Invalid("mlp_only_layers", expected);
    }
    config.layers[layer.get<uint64_t>()].is_moe = false;
  }
  return absl::OkStatus();
}

// OpenAI's gpt-oss: all its experts in tensors of their own kind, and a learnt sink for each query head.
absl::Status ReadGptOss(const ConfigFields& fields, ModelConfig& config) {
  config.has_sink_logits = true;
  config.activation = Activation::kClampedSwiglu;
  config.moe.tensors = ExpertTensors::kTogether;
  config.moe.has_bias = true;
  config.moe.intermediate_size = config.intermediate_size;
  double limit = 0;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("swiglu_limit", kSwigluLimit, limit));
  if (limit != kSwigluLimit) return fields.Unimplemented("swiglu_limit", "7.0");
  TRIBUTARY_RETURN_IF_ERROR(ReadExperts(fields, "num_local_experts", 128, 4, config));
  for (LayerSpec& layer : config.layers) layer.is_moe = true;
  return absl::OkStatus();
}

// What gpt-oss's configuration class has where a file says nothing.
const RopeParameters& GptOssRope() {
  static const RopeParameters rope{.type = RopeType::kYarn,
                                   .factor = 32.0,
                                   .truncate = false,
                                   .attention_factor = 0.1 * std::log(32.0) + 1.0,
                                   .original_max_position_embeddings = 4096};
  return rope;
}

constexpr std::array<FamilyRow, 15> kFamilies = {{
    {.model_type = "llama",
     .architecture = "LlamaForCausalLM",
     .family = ModelFamily::kLlama,
     .kv_heads_default_to_query_heads = true},
    {.model_type = "mistral",
     .architecture = "MistralForCausalLM",
     .family = ModelFamily::kMistral,
     .max_position_embeddings = 131072,
     .sliding = SlidingRule::kAll,
     .sliding_window = 4096},
    {.model_type = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .family = ModelFamily::kQwen2,
     .max_position_embeddings = 32768,
     .sliding = SlidingRule::kFromMaxWindowLayers,
     .sliding_window = 4096,
     .read = ReadQwen2},
    {.model_type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .family = ModelFamily::kQwen3,
     .head_dim = 128,
     .max_position_embeddings = 32768,
     .sliding = SlidingRule::kFromMaxWindowLayers,
     .sliding_window = 4096,
     .read = ReadQwen3},
    {.model_type = "phi3",
     .architecture = "Phi3ForCausalLM",
     .family = ModelFamily::kPhi3,
     .kv_heads_default_to_query_heads = true,
     .max_position_embeddings = 4096,
     .may_turn_partly = true,
     .rms_norm_eps = 1e-5,
     .sliding = SlidingRule::kAll,
     .read = ReadPhi3},
    {.model_type = "smollm3",
     .architecture = "SmolLM3ForCausalLM",
     .family = ModelFamily::kSmolLm3,
     .max_position_embeddings = 32768,
     .rope_theta = 2e6,
     .tie_word_embeddings = true,
     .sliding = SlidingRule::kNoRopeLayersIfUsed,
     .read = ReadSmolLm3},
    {.model_type = "olmo2",
     .architecture = "Olmo2ForCausalLM",
     .family = ModelFamily::kOlmo2,
     .kv_heads_default_to_query_heads = true,
     .rms_norm_eps = 1e-5,
     .read = ReadOlmo2},
    {.model_type = "granite",
     .architecture = "GraniteForCausalLM",
     .family = ModelFamily::kGranite,
     .kv_heads_default_to_query_heads = true,
     .read = ReadGranite},
    {.model_type = "gemma2",
     .architecture = "Gemma2ForCausalLM",
     .family = ModelFamily::kGemma2,
     .head_dim = 256,
     .max_position_embeddings = 8192,
     .tie_word_embeddings = true,
     .sliding = SlidingRule::kEachSecond,
     .sliding_window = 4096,
     .read = ReadGemma2},
    {.model_type = "gemma3_text",
     .architecture = "Gemma3ForCausalLM",
     .family = ModelFamily::kGemma3,
     .head_dim = 256,
     .max_position_embeddings = 131072,
     .rope_theta = 1e6,
     .tie_word_embeddings = true,
     .sliding = SlidingRule::kAllButEachPatternLast,
     .sliding_window = 4096,
     .read = ReadGemma3},
    {.model_type = "mixtral",
     .architecture = "MixtralForCausalLM",
     .family = ModelFamily::kMixtral,
     .max_position_embeddings = 131072,
     .rope_theta = 1e6,
     .rms_norm_eps = 1e-5,
     .sliding = SlidingRule::kAll,
     .read = ReadMixtral},
    {.model_type = "qwen3_moe",
     .architecture = "Qwen3MoeForCausalLM",
     .family = ModelFamily::kQwen3Moe,
     .max_position_embeddings = 32768,
     .sliding = SlidingRule::kAllIfUsed,
     .sliding_window = 4096,
     .read = ReadQwen3Moe},
    {.model_type = "gpt_oss",
     .architecture = "GptOssForCausalLM",
     .family = ModelFamily::kGptOss,
     .head_dim = 64,
     .max_position_embeddings = 131072,
     .rope_theta = 150000.0,
     .rope = GptOssRope,
     .rms_norm_eps = 1e-5,
     .attention_bias = true,
     .sliding = SlidingRule::kEachSecond,
     .sliding_window = 128,
     .read = ReadGptOss},
    {.model_type = "glm",
     .architecture = "GlmForCausalLM",
     .family = ModelFamily::kGlm,
     .head_dim = 128,
     .max_position_embeddings = 131072,
     .rotary_share = 0.5,
     .may_turn_partly = true,
     .rms_norm_eps = 1.5625e-7,
     .attention_bias = true,
     .read = ReadGlm},
    {.model_type = "glm4",
     .architecture = "Glm4ForCausalLM",
     .family = ModelFamily::kGlm4,
     .head_dim = 128,
     .max_position_embeddings = 131072,
     .rotary_share = 0.5,
     .may_turn_partly = true,
     .rms_norm_eps = 1.5625e-7,
     .attention_bias = true,
     .read = ReadGlm4},
}};

}  // namespace

std::span<const FamilyRow> ModelFamilies() { return kFamilies; }

std::string ModelFamilyNames() {
  std::string names;
  for (const FamilyRow& row : kFamilies) names += fmt::format("{}{}", names.empty() ? "" : ", ", row.model_type);
  return names;
}

}  // namespace tributary
