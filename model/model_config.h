// The architecture of a Llama-family model as its Hugging Face config.json states it, checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/shape.h"
#include "base/dtype.h"

namespace tributary {

enum class ModelFamily { kLlama, kMistral, kQwen2, kQwen3 };

// RoPE frequency scaling of Llama 3.1 ("rope_type": "llama3").
struct Llama3RopeScaling {
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 1.0;
  uint32_t original_max_position_embeddings = 0;
};

struct ModelConfig {
  ModelFamily family = ModelFamily::kLlama;
  uint32_t num_layers = 0;
  uint32_t hidden_size = 0;
  uint32_t intermediate_size = 0;
  uint32_t vocab_size = 0;
  AttentionShape attention;
  uint32_t max_position_embeddings = 0;
  double rope_theta = 10000.0;
  std::optional<Llama3RopeScaling> rope_scaling;
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  bool has_qkv_bias = false;            // Qwen2; the others with attention_bias
  bool has_o_bias = false;              // Llama and Qwen3 with attention_bias
  bool has_qk_norm = false;             // Qwen3: RMSNorm over head_dim on q and k, before RoPE
  std::vector<uint32_t> eos_token_ids;  // of config.json and generation_config.json, ascending
  DType stored_dtype = DType::kUnset;   // "torch_dtype"/"dtype", informative: each tensor states its own

  double softmax_scale() const;
};

// Reads and checks DIR/config.json (and eos_token_id of DIR/generation_config.json, if there is
// one). NOT_FOUND, INVALID_ARGUMENT (malformed, missing or contradictory fields), UNIMPLEMENTED
// (architecture, rope type, activation or sliding window that is not served): each names the file,
// the field, its value and what is supported.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::filesystem::path& model_dir);

// Inverse frequencies, [head_dim / 2], with rope_scaling applied: f32 values, computed in f32 as
// Hugging Face does, because at position 16k the last bit of a frequency moves an angle by 1e-3.
// Pair i of a head is (x[i], x[i + head_dim / 2]).
std::vector<double> RopeInverseFrequencies(const ModelConfig& config);

}  // namespace tributary
