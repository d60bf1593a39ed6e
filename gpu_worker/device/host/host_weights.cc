#include "gpu_worker/device/host/host_weights.h"

#include <initializer_list>

#include "base/check.h"
#include "base/dtype.h"

namespace tributary {
namespace {

// The tensors one after the other, in f32; empty if they are absent.
AlignedBuffer<float> Stack(std::initializer_list<const TensorView*> tensors) {
  size_t count = 0;
  for (const TensorView* tensor : tensors) count += tensor == nullptr ? 0 : tensor->num_elements();
  AlignedBuffer<float> stacked(count);
  size_t offset = 0;
  for (const TensorView* tensor : tensors) {
    if (tensor == nullptr) continue;
    ConvertToF32(ToDType(tensor->type), tensor->bytes.data(), tensor->num_elements(), stacked.data() + offset);
    offset += tensor->num_elements();
  }
  return stacked;
}

// A norm's weights, with what the model leaves out of them.
AlignedBuffer<float> Norm(const TensorView* tensor, const ModelConfig& config) {
  AlignedBuffer<float> norm = Stack({tensor});
  for (float& weight : norm.span()) weight += static_cast<float>(config.norm_weight_offset);
  return norm;
}

}  // namespace

HostWeights::HostWeights(std::shared_ptr<const ModelWeights> source)
    : source_(std::move(source)), layer_map_(source_->config.num_layers, source_->config.windowed_layers()) {
  layers_.reserve(source_->layers.size());
  for (const LayerWeights& w : source_->layers) {
    layers_.push_back({.attention_norm = Norm(w.attention_norm, config()),
                       .qkv = Stack({w.q, w.k, w.v}),
                       .qkv_bias = Stack({w.q_bias, w.k_bias, w.v_bias}),
                       .q_norm = Norm(w.q_norm, config()),
                       .k_norm = Norm(w.k_norm, config()),
                       .o = Stack({w.o}),
                       .o_bias = Stack({w.o_bias}),
                       .attention_post_norm = Norm(w.attention_post_norm, config()),
                       .mlp_norm = Norm(w.mlp_norm, config()),
                       .gate_up = Stack({w.gate, w.up}),
                       .down = Stack({w.down}),
                       .mlp_post_norm = Norm(w.mlp_post_norm, config()),
                       .router = Stack({w.router})});
    for (const ExpertWeights& expert : w.experts) {
      layers_.back().experts.push_back({Stack({expert.gate, expert.up}), Stack({expert.down})});
    }
  }
  final_norm_ = Norm(source_->final_norm, config());
  lm_head_ = Stack({source_->lm_head});
}

uint64_t HostWeights::Bytes(const ModelWeights& source) {
  uint64_t elements = source.num_parameters();
  if (source.lm_head != source.embedding) elements -= source.embedding->num_elements();
  return elements * sizeof(float);
}

void HostWeights::Embed(uint32_t token, float* out) const {
  TRIBUTARY_CHECK_LT(token, config().vocab_size);
  const TensorView& table = *source_->embedding;
  const DType dtype = ToDType(table.type);
  const size_t row_bytes = config().hidden_size * DTypeBytes(dtype);
  ConvertToF32(dtype, table.bytes.data() + token * row_bytes, config().hidden_size, out);
  const auto scale = static_cast<float>(config().embedding_scale);
  if (scale == 1.0f) return;
  for (size_t i = 0; i < config().hidden_size; ++i) out[i] *= scale;
}

}  // namespace tributary
