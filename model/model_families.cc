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

absl::Status ReadQwen2(const ConfigFields&, ModelConfig& config) {
  config.has_qkv_bias = true;
  config.has_o_bias = false;
  return absl::OkStatus();
}

absl::Status ReadQwen3(const ConfigFields&, ModelConfig& config) {
  config.qk_norm = QkNorm::kPerHead;
  return absl::OkStatus();
}

absl::Status ReadPhi3(const ConfigFields& fields, ModelConfig& config) {
  config.has_fused_weights = true;
  double rotary_share = 1.0;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("partial_rotary_factor", 1.0, rotary_share));
  return rotary_share == 1.0 ? absl::OkStatus() : fields.Unimplemented("partial_rotary_factor", "1.0");
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

absl::Status ReadGemma3(const ConfigFields& fields, ModelConfig& config) {
  config.norm_weight_offset = 1.0;
  config.norm_placement = NormPlacement::kBeforeAndAfter;
  config.qk_norm = QkNorm::kPerHead;
  config.activation = Activation::kGeluTanh;
  config.embedding_scale = std::sqrt(static_cast<double>(config.hidden_size));
  double scalar = 0;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("query_pre_attn_scalar", 256.0, scalar));
  config.softmax_scale = 1.0 / std::sqrt(scalar);
  if (fields.Has("attn_logit_softcapping")) return fields.Unimplemented("attn_logit_softcapping", "null");
  bool bidirectional = false;
  TRIBUTARY_RETURN_IF_ERROR(fields.Read("use_bidirectional_attention", false, bidirectional));
  if (bidirectional) return fields.Unimplemented("use_bidirectional_attention", "false");
  if (fields.Has("final_logit_softcapping")) {
    TRIBUTARY_RETURN_IF_ERROR(fields.Read("final_logit_softcapping", double{kRequiredField}, config.logits_soft_cap));
  }
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
  config.experts_are_mixtrals = true;
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

constexpr std::array<FamilyRow, 11> kFamilies = {{
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
}};

}  // namespace

std::span<const FamilyRow> ModelFamilies() { return kFamilies; }

std::string ModelFamilyNames() {
  std::string names;
  for (const FamilyRow& row : kFamilies) names += fmt::format("{}{}", names.empty() ? "" : ", ", row.model_type);
  return names;
}

}  // namespace tributary
