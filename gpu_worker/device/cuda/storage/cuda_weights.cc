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
  std::array<const TensorView*, 3> tensors;
  DType dtype;
  const void** address;
  uint64_t offset = 0;
};

class Layout {
 public:
  void AddMatrix(DType dtype, std::array<const TensorView*, 3> tensors, const void** address) {
    Add({tensors, dtype, address});
  }
  void AddVector(std::array<const TensorView*, 3> tensors, const float** address) {
    Add({tensors, DType::kF32, reinterpret_cast<const void**>(address)});
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
    placements_.push_back(placement);
  }

  std::vector<Placement> placements_;
  uint64_t bytes_ = 0;
};

void AddLayer(const LayerWeights& w, DType dtype, CudaLayer* layer, Layout* layout) {
  layout->AddVector({w.attention_norm}, &layer->attention_norm);
  layout->AddMatrix(dtype, {w.q, w.k, w.v}, &layer->qkv);
  layout->AddVector({w.q_bias, w.k_bias, w.v_bias}, &layer->qkv_bias);
  layout->AddVector({w.q_norm}, &layer->q_norm);
  layout->AddVector({w.k_norm}, &layer->k_norm);
  layout->AddMatrix(dtype, {w.o}, &layer->o);
  layout->AddVector({w.o_bias}, &layer->o_bias);
  layout->AddVector({w.mlp_norm}, &layer->mlp_norm);
  layout->AddMatrix(dtype, {w.gate, w.up}, &layer->gate_up);
  layout->AddMatrix(dtype, {w.down}, &layer->down);
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

  absl::Status Upload(const TensorView& tensor, DType dtype, std::byte* destination) {
    const DType stored = ToDType(tensor.type);
    const uint64_t step = kStagingBytes / sizeof(float);
    for (uint64_t begin = 0; begin < tensor.num_elements(); begin += step) {
      const uint64_t count = std::min(step, tensor.num_elements() - begin);
      const size_t i = next_++ % staging_.size();
      TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaEventSynchronize(copied_[i].get()));
      const std::byte* source = tensor.bytes.data() + begin * DTypeBytes(stored);
      Convert(stored, source, count, dtype, staging_[i].data());
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

// Fills in everything but addresses, which are relative to nothing yet.
Layout MakeLayout(const ModelWeights& source, DType dtype, std::vector<CudaLayer>* layers, const void** embedding,
                  const void** lm_head, const float** final_norm, uint64_t* rope_offset) {
  Layout layout;
  layers->resize(source.layers.size());
  for (size_t i = 0; i < layers->size(); ++i) {
    AddLayer(source.layers[i], dtype, &(*layers)[i], &layout);
  }
  layout.AddMatrix(dtype, {source.embedding}, embedding);
  if (source.lm_head != source.embedding) layout.AddMatrix(dtype, {source.lm_head}, lm_head);
  layout.AddVector({source.final_norm}, final_norm);
  *rope_offset = layout.AddBytes(source.config.attention.head_dim / 2 * sizeof(float));
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
      TRIBUTARY_RETURN_IF_ERROR(uploader.Upload(*tensor, placement.dtype, to));
      to += tensor->num_elements() * DTypeBytes(placement.dtype);
    }
  }
  if (weights->lm_head_ == nullptr) weights->lm_head_ = weights->embedding_;

  std::vector<float> frequencies;
  for (const double frequency : RopeInverseFrequencies(source.config)) {
    frequencies.push_back(static_cast<float>(frequency));
  }
  TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(base + rope_offset, frequencies.data(),
                                                 frequencies.size() * sizeof(float), cudaMemcpyHostToDevice, stream));
  weights->rope_ = reinterpret_cast<const float*>(base + rope_offset);
  TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream));
  return weights;
}

}  // namespace tributary
