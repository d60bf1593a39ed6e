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

}  // namespace

HostWeights::HostWeights(std::shared_ptr<const ModelWeights> source) : source_(std::move(source)) {
  layers_.reserve(source_->layers.size());
  for (const LayerWeights& w : source_->layers) {
    layers_.push_back({.attention_norm = Stack({w.attention_norm}),
                       .qkv = Stack({w.q, w.k, w.v}),
                       .qkv_bias = Stack({w.q_bias, w.k_bias, w.v_bias}),
                       .q_norm = Stack({w.q_norm}),
                       .k_norm = Stack({w.k_norm}),
                       .o = Stack({w.o}),
                       .o_bias = Stack({w.o_bias}),
                       .mlp_norm = Stack({w.mlp_norm}),
                       .gate_up = Stack({w.gate, w.up}),
                       .down = Stack({w.down})});
  }
  final_norm_ = Stack({source_->final_norm});
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
}

}  // namespace tributary
