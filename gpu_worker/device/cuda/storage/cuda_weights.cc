#include "gpu_worker/device/cuda/storage/cuda_weights.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/status.h"
#include "gpu_worker/device/cuda/runtime/cuda_status.h"

namespace tributary {
namespace {

constexpr uint64_t kAlignmentBytes = 256;
constexpr uint64_t kStagingBytes = uint64_t{32} << 20;

// Tensors that follow each other in device memory, and where their address goes.
struct Placement {
  std::vector<const TensorView*> tensors;
  DType dtype;
  const void** address;
  float add = 0;  // to each element, of f32
  uint64_t offset = 0;
};

class Layout {
 public:
  void AddMatrix(DType dtype, std::vector<const TensorView*> tensors, const void** address) {
    Add({std::move(tensors), dtype, address});
  }
  void AddVector(std::vector<const TensorView*> tensors, const float** address, float add = 0) {
    Add({std::move(tensors), DType::kF32, reinterpret_cast<const void**>(address), add});
  }
  uint64_t AddBytes(uint64_t bytes) {
    const uint64_t offset = bytes_;
    bytes_ += (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
    return offset;
  }

  uint64_t bytes() const { return bytes_; }
  const std::vector<Placement>& placements() const { return placements_; }

 private:
  void Add(Placement placement) {
    uint64_t bytes = 0;
    for (const TensorView* tensor : placement.tensors) {
      if (tensor != nullptr) bytes += tensor->num_elements() * DTypeBytes(placement.dtype);
    }
    if (bytes == 0) return;
    placement.offset = AddBytes(bytes);
    placements_.push_back(std::move(placement));
  }

  std::vector<Placement> placements_;
  uint64_t bytes_ = 0;
};

void AddExperts(const LayerWeights& w, DType dtype, CudaLayer* layer, Layout* layout) {
  std::vector<const TensorView*> gate_up, down, gate_up_bias, down_bias;
  for (const ExpertWeights& expert : w.experts) {
    gate_up.insert(gate_up.end(), {expert.gate, expert.up});
    down.push_back(expert.down);
    gate_up_bias.insert(gate_up_bias.end(), {expert.gate_bias, expert.up_bias});
    down_bias.push_back(expert.down_bias);
  }
  layout->AddMatrix(dtype, {w.router}, &layer->router);
  layout->AddVector({w.router_bias}, &layer->router_bias);
  layout->AddVector(std::move(gate_up_bias), &layer->expert_gate_up_bias);
  layout->AddVector(std::move(down_bias), &layer->expert_down_bias);
  layout->AddMatrix(dtype, std::move(gate_up), &layer->expert_gate_up);
  layout->AddMatrix(dtype, std::move(down), &layer->expert_down);
}

// add: to norms' weights.
void AddLayer(const LayerWeights& w, DType dtype, float add, CudaLayer* layer, Layout* layout) {
  layout->AddVector({w.attention_norm}, &layer->attention_norm, add);
  layout->AddMatrix(dtype, {w.q, w.k, w.v}, &layer->qkv);
  layout->AddVector({w.q_bias, w.k_bias, w.v_bias}, &layer->qkv_bias);
  layout->AddVector({w.q_norm}, &layer->q_norm, add);
  layout->AddVector({w.k_norm}, &layer->k_norm, add);
  layout->AddVector({w.sink_logits}, &layer->sink_logits);
  layout->AddMatrix(dtype, {w.o}, &layer->o);
  layout->AddVector({w.o_bias}, &layer->o_bias);
  layout->AddVector({w.attention_post_norm}, &layer->attention_post_norm, add);
  layout->AddVector({w.mlp_norm}, &layer->mlp_norm, add);
  layout->AddMatrix(dtype, {w.gate, w.up}, &layer->gate_up);
  layout->AddMatrix(dtype, {w.down}, &layer->down);
  layout->AddVector({w.mlp_post_norm}, &layer->mlp_post_norm, add);
  AddExperts(w, dtype, layer, layout);
}

// Copies through two pinned buffers, so that reading the file and the copy engine overlap.
class Uploader {
 public:
  explicit Uploader(cudaStream_t stream) : stream_(stream) {}

  absl::Status Init() {
    for (size_t i = 0; i < staging_.size(); ++i) {
      TRIBUTARY_ASSIGN_OR_RETURN(staging_[i], PinnedBuffer::Make(kStagingBytes, "the upload of weights"));
      TRIBUTARY_ASSIGN_OR_RETURN(copied_[i], CudaEvent::Make());
    }
    return absl::OkStatus();
  }

  // Adds `add` to each element of f32.
  absl::Status Upload(const TensorView& tensor, DType dtype, float add, std::byte* destination) {
    const DType stored = ToDType(tensor.type);
    const uint64_t step = kStagingBytes / sizeof(float);
    for (uint64_t begin = 0; begin < tensor.num_elements(); begin += step) {
      const uint64_t count = std::min(step, tensor.num_elements() - begin);
      const size_t i = next_++ % staging_.size();
      TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaEventSynchronize(copied_[i].get()));
      const std::byte* source = tensor.bytes.data() + begin * DTypeBytes(stored);
      Convert(stored, source, count, dtype, staging_[i].data());
      if (add != 0) {
        for (float& value : std::span(reinterpret_cast<float*>(staging_[i].data()), count)) value += add;
      }
      TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(destination + begin * DTypeBytes(dtype), staging_[i].data(),
                                                     count * DTypeBytes(dtype), cudaMemcpyHostToDevice, stream_));
      TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaEventRecord(copied_[i].get(), stream_));
    }
    return absl::OkStatus();
  }

 private:
  void Convert(DType from, const std::byte* source, uint64_t count, DType to, std::byte* destination) {
    if (from == to) {
      std::memcpy(destination, source, count * DTypeBytes(to));
    } else if (to == DType::kF32) {
      ConvertToF32(from, source, count, reinterpret_cast<float*>(destination));
    } else {
      f32_.resize(count);
      ConvertToF32(from, source, count, f32_.data());
      ConvertFromF32(to, f32_.data(), count, destination);
    }
  }

  const cudaStream_t stream_;
  std::array<PinnedBuffer, 2> staging_;
  std::array<CudaEvent, 2> copied_;
  std::vector<float> f32_;
  size_t next_ = 0;
};

// For each base its frequencies in a short context, then in a long one: [base][2][rotary_dim / 2].
std::vector<float> RopeTables(const ModelConfig& config) {
  std::vector<float> tables;
  for (const RopeParameters& rope : config.ropes) {
    for (const uint64_t context_tokens : {uint64_t{0}, uint64_t{rope.original_max_position_embeddings} + 1}) {
      const std::vector<float> table = RopeInverseFrequencies(rope, config.rotary_dim, context_tokens);
      tables.insert(tables.end(), table.begin(), table.end());
    }
  }
  return tables;
}

// What kernels need of a base whose tables lie at `tables`.
gpu::RopeBase MakeRopeBase(const RopeParameters& rope, uint32_t rotary_dim, const float* tables) {
  gpu::RopeBase base{.inverse_frequencies = tables, .attention_factor = static_cast<float>(rope.attention_factor)};
  if (!rope.follows_length()) return base;
  base.original_tokens = rope.original_max_position_embeddings;
  if (rope.type == RopeType::kLongrope) {
    base.long_inverse_frequencies = tables + rotary_dim / 2;
  } else {
    base.dynamic_theta = rope.theta;
    base.dynamic_factor = rope.factor;
  }
  return base;
}

// Fills in everything but addresses, which are relative to nothing yet.
Layout MakeLayout(const ModelWeights& source, DType dtype, std::vector<CudaLayer>* layers, const void** embedding,
                  const void** lm_head, const float** final_norm, uint64_t* rope_offset) {
  Layout layout;
  const auto add = static_cast<float>(source.config.norm_weight_offset);
  layers->resize(source.layers.size());
  for (size_t i = 0; i < layers->size(); ++i) {
    AddLayer(source.layers[i], dtype, add, &(*layers)[i], &layout);
  }
  layout.AddMatrix(dtype, {source.embedding}, embedding);
  if (source.lm_head != source.embedding) layout.AddMatrix(dtype, {source.lm_head}, lm_head);
  layout.AddVector({source.final_norm}, final_norm, add);
  *rope_offset = layout.AddBytes(RopeTables(source.config).size() * sizeof(float));
  return layout;
}

}  // namespace

uint64_t CudaWeights::Bytes(const ModelWeights& source, DType compute_dtype) {
  std::vector<CudaLayer> layers;
  const void *embedding = nullptr, *lm_head = nullptr;
  const float* final_norm = nullptr;
  uint64_t rope_offset = 0;
  return MakeLayout(source, compute_dtype, &layers, &embedding, &lm_head, &final_norm, &rope_offset).bytes();
}

absl::StatusOr<std::unique_ptr<CudaWeights>> CudaWeights::Make(const CudaContext& context, const ModelWeights& source) {
  std::unique_ptr<CudaWeights> weights(new CudaWeights);
  uint64_t rope_offset = 0;
  const Layout layout = MakeLayout(source, context.compute_dtype, &weights->layers_, &weights->embedding_,
                                   &weights->lm_head_, &weights->final_norm_, &rope_offset);
  TRIBUTARY_ASSIGN_OR_RETURN(weights->memory_, DeviceBuffer::Make(layout.bytes(), "the weights"));

  const cudaStream_t stream = context.prefill_stream.get();
  Uploader uploader(stream);
  TRIBUTARY_RETURN_IF_ERROR(uploader.Init());
  std::byte* const base = weights->memory_.data();
  for (const Placement& placement : layout.placements()) {
    std::byte* to = base + placement.offset;
    *placement.address = to;
    for (const TensorView* tensor : placement.tensors) {
      if (tensor == nullptr) continue;
      TRIBUTARY_RETURN_IF_ERROR(uploader.Upload(*tensor, placement.dtype, placement.add, to));
      to += tensor->num_elements() * DTypeBytes(placement.dtype);
    }
  }
  if (weights->lm_head_ == nullptr) weights->lm_head_ = weights->embedding_;

  const std::vector<float> tables = RopeTables(source.config);
  TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(base + rope_offset, tables.data(), tables.size() * sizeof(float),
                                                 cudaMemcpyHostToDevice, stream));
  const auto* rope = reinterpret_cast<const float*>(base + rope_offset);
  for (const RopeParameters& parameters : source.config.ropes) {
    weights->rope_bases_.push_back(MakeRopeBase(parameters, source.config.rotary_dim, rope));
    rope += source.config.rotary_dim;
  }
  TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream));
  return weights;
}

}  // namespace tributary
