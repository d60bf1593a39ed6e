// The architecture of a decoder-only model as its Hugging Face config.json states it, checked. Families differ in a few
// things, each a field here; model/model_families.cc has the table of families, and nobody else asks for a family.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/shape.h"
#include "base/dtype.h"
#include "model/rope.h"

namespace tributary {

enum class ModelFamily : uint8_t {
  kLlama,
  kMistral,
  kQwen2,
  kQwen3,
  kPhi3,
  kSmolLm3,
  kOlmo2,
  kGranite,
  kGemma2,
  kGemma3,
  kMixtral,
  kQwen3Moe,
  kGptOss,
  kGlm,
  kGlm4,
};

// Where a layer's two RMSNorms stand: before attention and MLP, or on what these add to the residual stream.
enum class NormPlacement : uint8_t { kBefore, kAfter, kBeforeAndAfter };

// RMSNorm of q and k before RoPE: over each head, or over all heads together.
enum class QkNorm : uint8_t { kNone, kPerHead, kWholeProjection };

// What an MLP makes of its gate g and up u: g sigmoid(g) u; GELU of g, by its tanh form, times u; or, with both
// clamped, g sigmoid(1.702 g) (u + 1), where g is at most 7 and u in [-7, 7] (gpt-oss).
enum class Activation : uint8_t { kSilu, kGeluTanh, kClampedSwiglu };

// How a file names and cuts its experts: one tensor for each matrix of each expert, under Qwen's names or under
// Mixtral's, or one for all of a layer's experts, [in][out], with gate and up taking turns (gpt-oss).
enum class ExpertTensors : uint8_t { kQwen, kMixtral, kTogether };

inline constexpr uint32_t kNoRope = ~uint32_t{0};

struct LayerSpec {
  // Attention sees this many tokens, the token itself included; 0: all.
  uint32_t sliding_window_tokens = 0;
  bool is_sliding = false;  // of the sliding kind, also where no context outgrows its window
  uint32_t rope = 0;        // index of ModelConfig::ropes, or kNoRope
  bool is_moe = false;      // experts instead of one MLP
};

// Experts of which a router picks some for each token.
struct MoeSpec {
  uint32_t num_experts = 0;  // 0: the model has none
  uint32_t experts_per_token = 0;
  uint32_t intermediate_size = 0;
  // The chosen experts' softmax weights are made to sum to 1.
  bool normalises_weights = true;
  bool has_bias = false;  // router and experts
  ExpertTensors tensors = ExpertTensors::kQwen;
};

struct ModelConfig {
  ModelFamily family = ModelFamily::kLlama;
  uint32_t num_layers = 0;
  uint32_t hidden_size = 0;
  uint32_t intermediate_size = 0;
  uint32_t vocab_size = 0;
  AttentionShape attention;
  uint32_t max_position_embeddings = 0;
  std::vector<LayerSpec> layers;      // [num_layers]
  std::vector<RopeParameters> ropes;  // at least one
  uint32_t rotary_dim = 0;            // the first elements of a head, which turn: even, at most head_dim
  bool turns_neighbours = false;      // RoPE's pairs are (x[2 i], x[2 i + 1]), not (x[i], x[i + rotary_dim / 2])
  double rms_norm_eps = 1e-6;
  // Gemma stores its norms' weights less 1.
  double norm_weight_offset = 0;
  NormPlacement norm_placement = NormPlacement::kBefore;
  QkNorm qk_norm = QkNorm::kNone;
  Activation activation = Activation::kSilu;
  double softmax_scale = 0;
  double attention_soft_cap = 0;  // scores become cap tanh(score / cap); 0: none
  double embedding_scale = 1;     // of what the residual stream begins with
  double residual_scale = 1;      // of what attention and MLP add to it
  double logits_scale = 1;
  double logits_soft_cap = 0;  // logits become cap tanh(logits / cap); 0: none
  MoeSpec moe;
  bool tie_word_embeddings = false;
  bool has_qkv_bias = false;            // Qwen2; the others with attention_bias
  bool has_o_bias = false;              // with attention_bias, but for Qwen2
  bool has_fused_qkv = false;           // Phi-3: one tensor for q, k, v
  bool has_fused_gate_up = false;       // Phi-3, GLM: one tensor for gate and up
  bool has_glm_norm_names = false;      // where norms stand before and behind, their names are GLM's, not Gemma's
  bool has_sink_logits = false;         // each query head's softmax has one more addend in its denominator
  std::vector<uint32_t> eos_token_ids;  // of config.json and generation_config.json, ascending
  DType stored_dtype = DType::kUnset;   // "torch_dtype"/"dtype", informative: each tensor states its own

  // The longest context: max_position_embeddings, or as many times more as dynamic RoPE is made for.
  uint64_t max_context_tokens() const;
  // Layers whose attention sees a window only, ascending; all have windows of one size.
  std::vector<uint32_t> windowed_layers() const;
};

// Reads and checks DIR/config.json (and eos_token_id of DIR/generation_config.json, if there is
// one). NOT_FOUND, INVALID_ARGUMENT (malformed, missing or contradictory fields), UNIMPLEMENTED
// (architecture, rope type, activation or quantisation that is not served): each names the file,
// the field, its value and what is supported.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::filesystem::path& model_dir);

}  // namespace tributary
