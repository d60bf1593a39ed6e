// Writes the folder of a small random model: config.json and model.safetensors, in any of the
// families.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "tests/testutil/temp_dir.h"

namespace tributary {

struct StoredTensor {
  std::vector<uint64_t> shape;
  std::vector<float> values;
};
using StoredTensors = std::map<std::string, StoredTensor>;

// The bytes of a .safetensors file with these tensors, all of one dtype.
inline std::string SafetensorsBytes(const StoredTensors& tensors, DType dtype,
                                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}}) {
  const char* type_name = dtype == DType::kF32 ? "F32" : dtype == DType::kBf16 ? "BF16" : "F16";
  nlohmann::json header = nlohmann::json::object();
  header["__metadata__"] = metadata;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    data.resize(begin + tensor.values.size() * DTypeBytes(dtype));
    ConvertFromF32(dtype, tensor.values.data(), tensor.values.size(), data.data() + begin);
    header[name] = {{"dtype", type_name}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t header_bytes = text.size();
  std::string file(sizeof(header_bytes), '\0');
  std::memcpy(file.data(), &header_bytes, sizeof(header_bytes));
  return file + text + data;
}

struct RandomModelOptions {
  std::string model_type = "llama";  // llama, mistral, qwen2, qwen3
  uint32_t num_layers = 2;
  uint32_t hidden_size = 48;
  uint32_t intermediate_size = 80;
  uint32_t vocab_size = 61;
  uint32_t num_q_heads = 4;
  uint32_t num_kv_heads = 2;
  uint32_t head_dim = 16;
  bool attention_bias = false;
  bool tied = false;
  bool llama3_rope = false;
  DType stored_dtype = DType::kF32;
  uint64_t seed = 1;
};

inline nlohmann::json RandomModelConfig(const RandomModelOptions& options) {
  const std::map<std::string, std::string> architectures = {
      {"llama", "LlamaForCausalLM"},     {"mistral", "MistralForCausalLM"},    {"qwen2", "Qwen2ForCausalLM"},
      {"qwen3", "Qwen3ForCausalLM"},     {"phi3", "Phi3ForCausalLM"},          {"smollm3", "SmolLM3ForCausalLM"},
      {"olmo2", "Olmo2ForCausalLM"},     {"granite", "GraniteForCausalLM"},    {"gemma3_text", "Gemma3ForCausalLM"},
      {"mixtral", "MixtralForCausalLM"}, {"qwen3_moe", "Qwen3MoeForCausalLM"}, {"gpt_oss", "GptOssForCausalLM"},
      {"glm", "GlmForCausalLM"},         {"glm4", "Glm4ForCausalLM"},          {"gemma2", "Gemma2ForCausalLM"}};
  nlohmann::json config = {{"model_type", options.model_type},
                           {"architectures", {architectures.at(options.model_type)}},
                           {"num_hidden_layers", options.num_layers},
                           {"hidden_size", options.hidden_size},
                           {"intermediate_size", options.intermediate_size},
                           {"vocab_size", options.vocab_size},
                           {"num_attention_heads", options.num_q_heads},
                           {"num_key_value_heads", options.num_kv_heads},
                           {"head_dim", options.head_dim},
                           {"max_position_embeddings", 4096},
                           {"rope_theta", 5000.0},
                           {"rms_norm_eps", 1e-5},
                           {"hidden_act", options.model_type.starts_with("gemma") ? "gelu_pytorch_tanh" : "silu"},
                           {"attention_bias", options.attention_bias},
                           {"tie_word_embeddings", options.tied},
                           {"eos_token_id", nullptr}};
  if (options.llama3_rope) {
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 4.0},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 64}};
  }
  return config;
}

// Values are scaled so that activations stay of order one.
inline StoredTensors RandomModelTensors(const RandomModelOptions& options) {
  StoredTensors tensors;
  std::mt19937_64 random(options.seed);
  const auto add = [&](const std::string& name, std::vector<uint64_t> shape, float mean, float deviation) {
    uint64_t count = 1;
    for (const uint64_t size : shape) count *= size;
    std::normal_distribution<float> normal(mean, deviation);
    StoredTensor tensor{std::move(shape), std::vector<float>(count)};
    for (float& value : tensor.values) value = normal(random);
    tensors[name] = std::move(tensor);
  };
  const auto add_matrix = [&](const std::string& name, uint64_t out, uint64_t in) {
    add(name, {out, in}, 0.0f, 1.0f / std::sqrt(static_cast<float>(in)));
  };
  const uint64_t q_dim = uint64_t{options.num_q_heads} * options.head_dim;
  const uint64_t kv_dim = uint64_t{options.num_kv_heads} * options.head_dim;
  const bool is_qwen2 = options.model_type == "qwen2";
  add("model.embed_tokens.weight", {options.vocab_size, options.hidden_size}, 0.0f, 1.0f);
  for (uint32_t layer = 0; layer < options.num_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    add(prefix + "input_layernorm.weight", {options.hidden_size}, 1.0f, 0.1f);
    add_matrix(prefix + "self_attn.q_proj.weight", q_dim, options.hidden_size);
    add_matrix(prefix + "self_attn.k_proj.weight", kv_dim, options.hidden_size);
    add_matrix(prefix + "self_attn.v_proj.weight", kv_dim, options.hidden_size);
    if (is_qwen2 || options.attention_bias) {
      add(prefix + "self_attn.q_proj.bias", {q_dim}, 0.0f, 0.3f);
      add(prefix + "self_attn.k_proj.bias", {kv_dim}, 0.0f, 0.3f);
      add(prefix + "self_attn.v_proj.bias", {kv_dim}, 0.0f, 0.3f);
    }
    if (options.model_type == "qwen3") {
      add(prefix + "self_attn.q_norm.weight", {options.head_dim}, 1.0f, 0.1f);
      add(prefix + "self_attn.k_norm.weight", {options.head_dim}, 1.0f, 0.1f);
    }
    add_matrix(prefix + "self_attn.o_proj.weight", options.hidden_size, q_dim);
    if (options.attention_bias && !is_qwen2) {
      add(prefix + "self_attn.o_proj.bias", {options.hidden_size}, 0.0f, 0.3f);
    }
    add(prefix + "post_attention_layernorm.weight", {options.hidden_size}, 1.0f, 0.1f);
    add_matrix(prefix + "mlp.gate_proj.weight", options.intermediate_size, options.hidden_size);
    add_matrix(prefix + "mlp.up_proj.weight", options.intermediate_size, options.hidden_size);
    add_matrix(prefix + "mlp.down_proj.weight", options.hidden_size, options.intermediate_size);
  }
  add("model.norm.weight", {options.hidden_size}, 1.0f, 0.1f);
  if (!options.tied) add_matrix("lm_head.weight", options.vocab_size, options.hidden_size);
  return tensors;
}

inline void WriteRandomModel(const std::filesystem::path& dir, const RandomModelOptions& options) {
  WriteFile(dir / "config.json", RandomModelConfig(options).dump(2));
  WriteFile(dir / "model.safetensors", SafetensorsBytes(RandomModelTensors(options), options.stored_dtype));
}

}  // namespace tributary
