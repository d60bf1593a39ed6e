#include "model/weight_slots.h"

#include <span>

#include "base/check.h"
#include "fmt/format.h"
#include "model/expert_tensors.h"

namespace tributary {
namespace {

// Collects the slots of one layer.
class LayerSlots {
 public:
  LayerSlots(const ModelConfig& config, uint32_t layer, LayerWeights& weights, std::vector<WeightSlot>& slots)
      : config_(config),
        spec_(config.layers[layer]),
        w_(weights),
        slots_(slots),
        prefix_(fmt::format("model.layers.{}.", layer)),
        hidden_(config.hidden_size),
        q_dim_(uint64_t{config.attention.num_q_heads} * config.attention.head_dim),
        kv_dim_(uint64_t{config.attention.num_kv_heads} * config.attention.head_dim) {}

  void AddAll() {
    AddNorms();
    AddAttention();
    if (spec_.is_moe) {
      AddExperts();
    } else {
      AddMlp();
    }
  }

 private:
  void Add(const std::string& name, std::vector<uint64_t> shape, const TensorView*& destination) {
    slots_.push_back({prefix_ + name, std::move(shape), &destination});
  }

  void AddNorms() {
    const bool before = config_.norm_placement != NormPlacement::kAfter;
    const bool after = config_.norm_placement != NormPlacement::kBefore;
    if (config_.has_glm_norm_names) return AddGlmNorms();
    if (before) Add("input_layernorm.weight", {hidden_}, w_.attention_norm);
    if (after) Add("post_attention_layernorm.weight", {hidden_}, w_.attention_post_norm);
    // Without a norm behind attention, the one before the MLP has its name.
    if (before) {
      Add(after ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight", {hidden_}, w_.mlp_norm);
    }
    if (after) Add("post_feedforward_layernorm.weight", {hidden_}, w_.mlp_post_norm);
  }

  // Before and behind.
  void AddGlmNorms() {
    Add("input_layernorm.weight", {hidden_}, w_.attention_norm);
    Add("post_self_attn_layernorm.weight", {hidden_}, w_.attention_post_norm);
    Add("post_attention_layernorm.weight", {hidden_}, w_.mlp_norm);
    Add("post_mlp_layernorm.weight", {hidden_}, w_.mlp_post_norm);
  }

  void AddAttention() {
    if (config_.has_fused_qkv) {
      Add("self_attn.qkv_proj.weight", {q_dim_ + 2 * kv_dim_, hidden_}, w_.fused_qkv);
    } else {
      Add("self_attn.q_proj.weight", {q_dim_, hidden_}, w_.q);
      Add("self_attn.k_proj.weight", {kv_dim_, hidden_}, w_.k);
      Add("self_attn.v_proj.weight", {kv_dim_, hidden_}, w_.v);
    }
    if (config_.has_qkv_bias) {
      Add("self_attn.q_proj.bias", {q_dim_}, w_.q_bias);
      Add("self_attn.k_proj.bias", {kv_dim_}, w_.k_bias);
      Add("self_attn.v_proj.bias", {kv_dim_}, w_.v_bias);
    }
    if (config_.qk_norm != QkNorm::kNone) {
      const bool whole = config_.qk_norm == QkNorm::kWholeProjection;
      const uint64_t head_dim = config_.attention.head_dim;
      Add("self_attn.q_norm.weight", {whole ? q_dim_ : head_dim}, w_.q_norm);
      Add("self_attn.k_norm.weight", {whole ? kv_dim_ : head_dim}, w_.k_norm);
    }
    Add("self_attn.o_proj.weight", {hidden_, q_dim_}, w_.o);
    if (config_.has_o_bias) Add("self_attn.o_proj.bias", {hidden_}, w_.o_bias);
    if (config_.has_sink_logits) Add("self_attn.sinks", {config_.attention.num_q_heads}, w_.sink_logits);
  }

  void AddMlp() {
    const uint64_t intermediate = config_.intermediate_size;
    if (config_.has_fused_gate_up) {
      Add("mlp.gate_up_proj.weight", {2 * intermediate, hidden_}, w_.fused_gate_up);
    } else {
      Add("mlp.gate_proj.weight", {intermediate, hidden_}, w_.gate);
      Add("mlp.up_proj.weight", {intermediate, hidden_}, w_.up);
    }
    Add("mlp.down_proj.weight", {hidden_, intermediate}, w_.down);
  }

  void AddExperts() {
    if (config_.moe.tensors == ExpertTensors::kTogether) return AddExpertsTogether();
    const bool mixtral = config_.moe.tensors == ExpertTensors::kMixtral;
    const std::string block = mixtral ? "block_sparse_moe." : "mlp.";
    const uint64_t intermediate = config_.moe.intermediate_size;
    Add(block + "gate.weight", {config_.moe.num_experts, hidden_}, w_.router);
    w_.experts.resize(config_.moe.num_experts);
    for (uint32_t e = 0; e < config_.moe.num_experts; ++e) {
      const std::string expert = fmt::format("{}experts.{}.", block, e);
      Add(expert + (mixtral ? "w1.weight" : "gate_proj.weight"), {intermediate, hidden_}, w_.experts[e].gate);
      Add(expert + (mixtral ? "w3.weight" : "up_proj.weight"), {intermediate, hidden_}, w_.experts[e].up);
      Add(expert + (mixtral ? "w2.weight" : "down_proj.weight"), {hidden_, intermediate}, w_.experts[e].down);
    }
  }

  void AddExpertsTogether() {
    const uint64_t experts = config_.moe.num_experts, intermediate = config_.moe.intermediate_size;
    Add("mlp.router.weight", {experts, hidden_}, w_.router);
    Add("mlp.router.bias", {experts}, w_.router_bias);
    Add("mlp.experts.gate_up_proj", {experts, hidden_, 2 * intermediate}, w_.all_gate_up);
    Add("mlp.experts.gate_up_proj_bias", {experts, 2 * intermediate}, w_.all_gate_up_bias);
    Add("mlp.experts.down_proj", {experts, intermediate, hidden_}, w_.all_down);
    Add("mlp.experts.down_proj_bias", {experts, hidden_}, w_.all_down_bias);
  }

  const ModelConfig& config_;
  const LayerSpec& spec_;
  LayerWeights& w_;
  std::vector<WeightSlot>& slots_;
  const std::string prefix_;
  const uint64_t hidden_, q_dim_, kv_dim_;
};

// Rows [begin, begin + count) of a matrix.
const TensorView* Rows(ModelWeights& weights, const TensorView& matrix, uint64_t begin, uint64_t count) {
  const uint64_t row_bytes = matrix.bytes.size() / matrix.shape[0];
  weights.slices.push_back({.name = matrix.name,
                            .type = matrix.type,
                            .shape = {count, matrix.shape[1]},
                            .bytes = matrix.bytes.subspan(begin * row_bytes, count * row_bytes)});
  return &weights.slices.back();
}

}  // namespace

std::vector<WeightSlot> AllWeightSlots(ModelWeights& weights) {
  const ModelConfig& config = weights.config;
  TRIBUTARY_CHECK_EQ(config.layers.size(), size_t{config.num_layers});
  const std::vector<uint64_t> table = {config.vocab_size, config.hidden_size};
  weights.layers.resize(config.num_layers);
  std::vector<WeightSlot> slots;
  slots.push_back({"model.embed_tokens.weight", table, &weights.embedding});
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    LayerSlots(config, layer, weights.layers[layer], slots).AddAll();
  }
  slots.push_back({"model.norm.weight", {config.hidden_size}, &weights.final_norm});
  if (!config.tie_word_embeddings) slots.push_back({"lm_head.weight", table, &weights.lm_head});
  return slots;
}

void FinishWeights(ModelWeights& weights) {
  const ModelConfig& config = weights.config;
  const uint64_t q_dim = uint64_t{config.attention.num_q_heads} * config.attention.head_dim;
  const uint64_t kv_dim = uint64_t{config.attention.num_kv_heads} * config.attention.head_dim;
  for (LayerWeights& w : weights.layers) {
    if (w.fused_qkv != nullptr) {
      w.q = Rows(weights, *w.fused_qkv, 0, q_dim);
      w.k = Rows(weights, *w.fused_qkv, q_dim, kv_dim);
      w.v = Rows(weights, *w.fused_qkv, q_dim + kv_dim, kv_dim);
    }
    if (w.all_gate_up != nullptr) SeparateExperts(config.moe, weights, w);
    if (w.fused_gate_up != nullptr) {
      w.gate = Rows(weights, *w.fused_gate_up, 0, config.intermediate_size);
      w.up = Rows(weights, *w.fused_gate_up, config.intermediate_size, config.intermediate_size);
    }
  }
  if (config.tie_word_embeddings) weights.lm_head = weights.embedding;
}

}  // namespace tributary
