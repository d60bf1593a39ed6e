#include "gpu_worker/device/host/host_weights.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <initializer_list>
#include <utility>

#include "base/check.h"
#include "base/dtype.h"
#include "model/forget_pages.h"

namespace tributary {
namespace {

// The vectors one after the other, in f32; empty if they are absent.
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

size_t PageBytes() {
  static const auto bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// Reads a byte of every page, over the pool.
void ReadPages(ThreadPool& pool, std::span<const std::byte> bytes) {
  constexpr size_t kChunkBytes = size_t{4} << 20;
  std::atomic<unsigned> sum{0};  // keeps the reads
  ForEachItem(pool, (bytes.size() + kChunkBytes - 1) / kChunkBytes, [&](int /*thread_idx*/, size_t chunk) {
    unsigned chunk_sum = 0;
    const size_t end = std::min(bytes.size(), (chunk + 1) * kChunkBytes);
    for (size_t i = chunk * kChunkBytes; i < end; i += PageBytes()) chunk_sum += static_cast<unsigned>(bytes[i]);
    sum.fetch_add(chunk_sum, std::memory_order_relaxed);
  });
}

// What is read no more need not stay in this process's memory. Pages of a file's map alone: they are read again if need
// be, while those of dummy weights and of copies would be lost.
void ForgetSource(const ModelWeights& source, std::span<const std::byte> bytes) {
  if (source.dummy != nullptr || !source.copies.empty()) return;
  ForgetPages(bytes);
}

uint64_t MatrixBytes(const TensorView& tensor, WeightDType dtype) {
  if (dtype == WeightDType::kStored || tensor.shape.size() != 2) return tensor.bytes.size();
  return Int8Matrix::Bytes(tensor.shape[0], tensor.shape[1]);
}

}  // namespace

HostWeights::HostWeights(std::shared_ptr<const ModelWeights> source, WeightDType dtype, ThreadPool& pool)
    : source_(std::move(source)), layer_map_(source_->config.num_layers, source_->config.windowed_layers()) {
  const auto matrix = [&](std::initializer_list<const TensorView*> tensors) { return Matrix(tensors, dtype, pool); };
  layers_.reserve(source_->layers.size());
  for (const LayerWeights& w : source_->layers) {
    layers_.push_back({.attention_norm = Norm(w.attention_norm, config()),
                       .qkv = matrix({w.q, w.k, w.v}),
                       .qkv_bias = Stack({w.q_bias, w.k_bias, w.v_bias}),
                       .q_norm = Norm(w.q_norm, config()),
                       .k_norm = Norm(w.k_norm, config()),
                       .sink_logits = Stack({w.sink_logits}),
                       .o = matrix({w.o}),
                       .o_bias = Stack({w.o_bias}),
                       .attention_post_norm = Norm(w.attention_post_norm, config()),
                       .mlp_norm = Norm(w.mlp_norm, config()),
                       .gate_up = matrix({w.gate, w.up}),
                       .down = matrix({w.down}),
                       .mlp_post_norm = Norm(w.mlp_post_norm, config()),
                       .router = Matrix({w.router}, WeightDType::kStored, pool),  // small, and what it decides is not
                       .router_bias = Stack({w.router_bias})});
    for (const ExpertWeights& expert : w.experts) {
      layers_.back().experts.push_back({matrix({expert.gate, expert.up}), matrix({expert.down}),
                                        Stack({expert.gate_bias, expert.up_bias}), Stack({expert.down_bias})});
    }
  }
  final_norm_ = Norm(source_->final_norm, config());
  lm_head_ = matrix({source_->lm_head});
  ReadPages(pool, source_->embedding->bytes);
}

MatrixView HostWeights::Matrix(std::initializer_list<const TensorView*> tensors, WeightDType dtype, ThreadPool& pool) {
  if (*tensors.begin() == nullptr) return {};
  MatrixView matrix((*tensors.begin())->shape.at(1));
  for (const TensorView* tensor : tensors) {
    const MatrixPart stored{tensor->bytes.data(), ToDType(tensor->type), nullptr, tensor->shape.at(0)};
    if (dtype == WeightDType::kStored) {
      ReadPages(pool, tensor->bytes);
      matrix.Append(stored);
      continue;
    }
    rounded_.emplace_back(pool, stored, matrix.in);
    matrix.Append(rounded_.back().part());
    ForgetSource(*source_, tensor->bytes);
  }
  return matrix;
}

uint64_t HostWeights::Bytes(const ModelWeights& source, WeightDType dtype) {
  const auto bytes = [dtype](const TensorView* tensor) {
    return tensor == nullptr ? uint64_t{0} : MatrixBytes(*tensor, dtype);
  };
  uint64_t sum = bytes(source.lm_head);
  // Embed() reads the file's table, which is the head only if that is neither another nor rounded.
  if (source.lm_head != source.embedding || dtype != WeightDType::kStored) sum += source.embedding->bytes.size();
  for (const LayerWeights& w : source.layers) {
    for (const TensorView* matrix : {w.q, w.k, w.v, w.o, w.gate, w.up, w.down}) sum += bytes(matrix);
    for (const ExpertWeights& expert : w.experts) {
      for (const TensorView* matrix : {expert.gate, expert.up, expert.down}) sum += bytes(matrix);
    }
  }
  return sum;
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
