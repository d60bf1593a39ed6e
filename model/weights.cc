#include "model/weights.h"

#include <set>
#include <string>

#include "absl/status/status.h"
#include "base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/weight_slots.h"

namespace tributary {
namespace {

void AddLayerSlots(const ModelConfig& config, uint32_t layer, LayerWeights& weights, std::vector<WeightSlot>& slots) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const uint64_t hidden = config.hidden_size;
  const uint64_t intermediate = config.intermediate_size;
  const uint64_t head_dim = config.attention.head_dim;
  const uint64_t q_dim = uint64_t{config.attention.num_q_heads} * head_dim;
  const uint64_t kv_dim = uint64_t{config.attention.num_kv_heads} * head_dim;
  const auto add = [&](const char* name, std::vector<uint64_t> shape, const TensorView*& destination) {
    slots.push_back({prefix + name, std::move(shape), &destination});
  };
  add("input_layernorm.weight", {hidden}, weights.attention_norm);
  add("self_attn.q_proj.weight", {q_dim, hidden}, weights.q);
  add("self_attn.k_proj.weight", {kv_dim, hidden}, weights.k);
  add("self_attn.v_proj.weight", {kv_dim, hidden}, weights.v);
  if (config.has_qkv_bias) {
    add("self_attn.q_proj.bias", {q_dim}, weights.q_bias);
    add("self_attn.k_proj.bias", {kv_dim}, weights.k_bias);
    add("self_attn.v_proj.bias", {kv_dim}, weights.v_bias);
  }
  if (config.has_qk_norm) {
    add("self_attn.q_norm.weight", {head_dim}, weights.q_norm);
    add("self_attn.k_norm.weight", {head_dim}, weights.k_norm);
  }
  add("self_attn.o_proj.weight", {hidden, q_dim}, weights.o);
  if (config.has_o_bias) add("self_attn.o_proj.bias", {hidden}, weights.o_bias);
  add("post_attention_layernorm.weight", {hidden}, weights.mlp_norm);
  add("mlp.gate_proj.weight", {intermediate, hidden}, weights.gate);
  add("mlp.up_proj.weight", {intermediate, hidden}, weights.up);
  add("mlp.down_proj.weight", {hidden, intermediate}, weights.down);
}

absl::Status Fill(const Checkpoint& checkpoint, const WeightSlot& slot) {
  TRIBUTARY_ASSIGN_OR_RETURN(const Checkpoint::Located found, checkpoint.Find(slot.name));
  const TensorView& tensor = *found.tensor;
  if (tensor.shape != slot.shape) {
    return absl::InvalidArgumentError(fmt::format("{}: tensor '{}' is {}, but config.json implies [{}]",
                                                  found.file->path().string(), slot.name, Describe(tensor),
                                                  fmt::join(slot.shape, ", ")));
  }
  if (!IsValidDType(ToDType(tensor.type))) {
    return absl::InvalidArgumentError(fmt::format("{}: tensor '{}' is {}; weights must be F32, BF16 or F16",
                                                  found.file->path().string(), slot.name, Describe(tensor)));
  }
  *slot.destination = &tensor;
  return absl::OkStatus();
}

// Tensors that old or tied checkpoints carry and that hold nothing of their own.
bool IsRedundant(const ModelConfig& config, const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight");
}

absl::Status CheckNoSurplus(const ModelWeights& weights, const std::vector<WeightSlot>& slots) {
  std::set<std::string_view> known;
  for (const WeightSlot& slot : slots) known.insert(slot.name);
  for (const auto& [name, located] : weights.checkpoint.tensors()) {
    if (known.contains(name) || IsRedundant(weights.config, name)) continue;
    return absl::InvalidArgumentError(
        fmt::format("{}: tensor '{}' has no place in the architecture that config.json describes ({} layers)",
                    located.file->path().string(), name, weights.config.num_layers));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<WeightSlot> AllWeightSlots(ModelWeights& weights) {
  const ModelConfig& config = weights.config;
  const std::vector<uint64_t> table = {config.vocab_size, config.hidden_size};
  std::vector<WeightSlot> slots;
  slots.push_back({"model.embed_tokens.weight", table, &weights.embedding});
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    AddLayerSlots(config, layer, weights.layers[layer], slots);
  }
  slots.push_back({"model.norm.weight", {config.hidden_size}, &weights.final_norm});
  if (!config.tie_word_embeddings) slots.push_back({"lm_head.weight", table, &weights.lm_head});
  return slots;
}

uint64_t ModelWeights::num_parameters() const {
  ModelWeights shapes;
  shapes.config = config;
  shapes.layers.resize(config.num_layers);
  uint64_t count = 0;
  for (const WeightSlot& slot : AllWeightSlots(shapes)) {
    uint64_t elements = 1;
    for (const uint64_t size : slot.shape) elements *= size;
    count += elements;
  }
  return count;
}

absl::StatusOr<std::shared_ptr<const ModelWeights>> LoadModelWeights(const std::filesystem::path& model_dir) {
  auto weights = std::make_shared<ModelWeights>();
  TRIBUTARY_ASSIGN_OR_RETURN(weights->config, LoadModelConfig(model_dir));
  TRIBUTARY_ASSIGN_OR_RETURN(weights->checkpoint, Checkpoint::Open(model_dir));
  weights->layers.resize(weights->config.num_layers);
  const std::vector<WeightSlot> slots = AllWeightSlots(*weights);
  for (const WeightSlot& slot : slots) TRIBUTARY_RETURN_IF_ERROR(Fill(weights->checkpoint, slot));
  TRIBUTARY_RETURN_IF_ERROR(CheckNoSurplus(*weights, slots));
  if (weights->config.tie_word_embeddings) weights->lm_head = weights->embedding;
  return std::shared_ptr<const ModelWeights>(std::move(weights));
}

}  // namespace tributary
