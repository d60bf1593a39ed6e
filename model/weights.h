// The tensors of a model by role, each checked against the shape that the config
// implies. Views into the memory-mapped files: a device makes its own copies.
#pragma once

#include <deque>
#include <filesystem>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"
#include "model/model_config.h"
#include "model/safetensors.h"

namespace tributary {

// One of a layer's experts; the shapes are an MLP's, with the experts' intermediate size.
struct ExpertWeights {
  const TensorView* gate = nullptr;
  const TensorView* up = nullptr;
  const TensorView* down = nullptr;
  const TensorView* gate_bias = nullptr;  // with has_bias
  const TensorView* up_bias = nullptr;
  const TensorView* down_bias = nullptr;
};

// Matrices are [out][in], as Hugging Face stores them. A null pointer: this model has none.
struct LayerWeights {
  const TensorView* attention_norm = nullptr;  // [hidden], unless norms stand behind only
  const TensorView* q = nullptr;               // [num_q_heads * head_dim][hidden]
  const TensorView* k = nullptr;               // [num_kv_heads * head_dim][hidden]
  const TensorView* v = nullptr;               // the same
  const TensorView* q_bias = nullptr;          // with has_qkv_bias
  const TensorView* k_bias = nullptr;
  const TensorView* v_bias = nullptr;
  const TensorView* q_norm = nullptr;  // [head_dim], or of the whole projection, as qk_norm says
  const TensorView* k_norm = nullptr;
  const TensorView* sink_logits = nullptr;          // [num_q_heads], with has_sink_logits
  const TensorView* o = nullptr;                    // [hidden][num_q_heads * head_dim]
  const TensorView* o_bias = nullptr;               // [hidden], with has_o_bias
  const TensorView* attention_post_norm = nullptr;  // [hidden], of what attention adds
  const TensorView* mlp_norm = nullptr;             // [hidden], unless norms stand behind only
  const TensorView* gate = nullptr;                 // [intermediate][hidden]; null in a layer of experts
  const TensorView* up = nullptr;                   // the same
  const TensorView* down = nullptr;                 // [hidden][intermediate]; likewise
  const TensorView* mlp_post_norm = nullptr;        // [hidden], of what the MLP adds
  const TensorView* router = nullptr;               // [num_experts][hidden], in a layer of experts
  const TensorView* router_bias = nullptr;          // [num_experts], with has_bias
  std::vector<ExpertWeights> experts;

  // With has_fused_qkv and has_fused_gate_up: q, k, v, and gate, up, are slices of them.
  const TensorView* fused_qkv = nullptr;
  const TensorView* fused_gate_up = nullptr;

  // ExpertTensors::kTogether: the experts are copies of them, which are cut and turned otherwise.
  const TensorView* all_gate_up = nullptr;       // [num_experts][hidden][2 intermediate]
  const TensorView* all_gate_up_bias = nullptr;  // [num_experts][2 intermediate]
  const TensorView* all_down = nullptr;          // [num_experts][intermediate][hidden]
  const TensorView* all_down_bias = nullptr;     // [num_experts][hidden]
};

// Immutable; thread-safe.
struct ModelWeights {
  ModelConfig config;
  const TensorView* embedding = nullptr;   // [vocab][hidden]
  std::vector<LayerWeights> layers;        // [num_layers]
  const TensorView* final_norm = nullptr;  // [hidden]
  const TensorView* lm_head = nullptr;     // [vocab][hidden]; the embedding when tied

  Checkpoint checkpoint;          // owns what the views point to
  std::deque<TensorView> slices;  // of fused tensors
  // What slices point to that are no part of a tensor as the file has it.
  std::deque<std::vector<std::byte>> copies;
  std::shared_ptr<const void> dummy;  // or this does (model/dummy_weights.h)

  ModelWeights() = default;
  ModelWeights(const ModelWeights&) = delete;
  ModelWeights& operator=(const ModelWeights&) = delete;

  // The folder that they were read from; empty: none.
  std::filesystem::path dir() const { return checkpoint.path().parent_path(); }
  // Elements of all tensors, a tied one counted once.
  uint64_t num_parameters() const;
};

// Reads config and tensors of a model folder. Beside LoadModelConfig's and Checkpoint::Open's
// errors: NOT_FOUND for a missing tensor; INVALID_ARGUMENT for one of another shape or type, or one
// that this architecture does not know (computing without it would give other results).
absl::StatusOr<std::shared_ptr<const ModelWeights>> LoadModelWeights(const std::filesystem::path& model_dir);

}  // namespace tributary
