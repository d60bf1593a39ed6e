#include "gpu_worker/device/cuda/forward/cuda_step_buffers.h"

#include <algorithm>
#include <bit>

#include "base/status.h"
#include "gpu_worker/device/cuda/kernels/matvec.h"
#include "gpu_worker/device/cuda/runtime/cuda_status.h"

namespace tributary {
namespace {

constexpr uint64_t kAlignmentBytes = 256;
// 4096 tokens and 8 KV heads make 128 blocks: one each for an H100's multiprocessors. A long resident context is cut
// into 64 at most, so that putting the splits together stays cheap.
constexpr gpu::SplitRule kSplitRule{.split_tokens = 256, .max_splits = 64};

// Places arrays one after the other; with a null base it only adds up.
class Arena {
 public:
  explicit Arena(std::byte* base) : base_(base) {}
  template <typename T>
  void Place(T** array, uint64_t bytes) {
    *array = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
  }
  uint64_t bytes() const { return bytes_; }

 private:
  std::byte* const base_;
  uint64_t bytes_ = 0;
};

struct Sizes {
  Sizes(const ModelConfig& c, const DeviceLimits& l, bool deterministic)
      : rows(RowBucket(l.max_batch, deterministic)),
        layers(c.num_layers),
        q_dim(uint64_t{c.attention.num_q_heads} * c.attention.head_dim),
        kv_dim(uint64_t{c.attention.num_kv_heads} * c.attention.head_dim),
        slots(std::max(1u, l.max_partial_slots)) {}
  uint64_t rows, layers, q_dim, kv_dim, slots;
};

uint64_t PlaceDevice(const ModelConfig& c, const Sizes& s, std::byte* base, StepBuffers* b) {
  Arena arena(base);
  const uint64_t floats = s.rows * sizeof(float);
  arena.Place(&b->header, sizeof(StepHeader));
  arena.Place(&b->rows, s.rows * sizeof(gpu::DecodeRowDesc));
  if (!c.windowed_layers().empty()) arena.Place(&b->windowed_rows, s.rows * sizeof(gpu::DecodeRowDesc));
  arena.Place(&b->arrivals, (s.layers + 1) * sizeof(uint32_t));
  arena.Place(&b->hidden, floats * c.hidden_size);
  arena.Place(&b->normed, floats * std::max<uint64_t>(c.hidden_size, s.q_dim));
  arena.Place(&b->qkv, floats * (s.q_dim + 2 * s.kv_dim));
  arena.Place(&b->q, floats * s.q_dim);
  arena.Place(&b->cos, floats * c.ropes.size() * (c.rotary_dim / 2));
  arena.Place(&b->sin, floats * c.ropes.size() * (c.rotary_dim / 2));
  arena.Place(&b->branch, floats * c.hidden_size);
  arena.Place(&b->router, floats * c.moe.num_experts);
  arena.Place(&b->experts, floats * c.moe.experts_per_token);
  arena.Place(&b->expert_weights, floats * c.moe.experts_per_token);
  arena.Place(&b->gated, floats * c.moe.experts_per_token * c.moe.intermediate_size);
  arena.Place(&b->gate_up, floats * 2 * c.intermediate_size);
  arena.Place(&b->mlp, floats * c.intermediate_size);
  arena.Place(&b->logits, floats * c.vocab_size);
  arena.Place(&b->go, s.layers * sizeof(uint64_t));
  arena.Place(&b->num_slots, s.rows * sizeof(uint32_t));
  arena.Place(&b->slot_out, floats * s.slots * s.q_dim);
  arena.Place(&b->slot_lse_ln, floats * s.slots * c.attention.num_q_heads);
  const uint64_t attend_bytes = gpu::AttendWorkspaceBytes(static_cast<uint32_t>(s.rows), b->geometry, b->split_rule);
  std::byte* attend = nullptr;
  arena.Place(&attend, attend_bytes);
  if (base != nullptr) {
    b->attend = gpu::MakeAttendWorkspace(attend, static_cast<uint32_t>(s.rows), b->geometry, b->split_rule);
  }
  return arena.bytes();
}

uint64_t PlacePinned(const ModelConfig& c, const Sizes& s, std::byte* base, StepBuffers* b) {
  Arena arena(base);
  const uint64_t floats = s.rows * sizeof(float);
  arena.Place(&b->host_header, sizeof(StepHeader));
  arena.Place(&b->host_rows, s.rows * sizeof(gpu::DecodeRowDesc));
  if (!c.windowed_layers().empty()) arena.Place(&b->host_windowed_rows, s.rows * sizeof(gpu::DecodeRowDesc));
  arena.Place(&b->host_q, floats * s.q_dim);
  arena.Place(&b->host_logits, floats * c.vocab_size);
  arena.Place(&b->sample_rows, s.rows * sizeof(gpu::SampleRowDesc));
  arena.Place(&b->samples, s.rows * sizeof(gpu::SampleResult));
  arena.Place(&b->host_num_slots, s.rows * sizeof(uint32_t));
  arena.Place(&b->host_slot_out, floats * s.slots * s.q_dim);
  arena.Place(&b->host_slot_lse_ln, floats * s.slots * c.attention.num_q_heads);
  arena.Place(&b->host_resident_out, floats * s.q_dim);
  arena.Place(&b->host_resident_lse_ln, floats * c.attention.num_q_heads);
  arena.Place(&b->query_flags, s.layers * sizeof(StepFlag));
  arena.Place(&b->partial_flags, s.layers * sizeof(HostRungFlag));
  arena.Place(&b->started_flag, sizeof(StepFlag));
  arena.Place(&b->done_flag, sizeof(StepFlag));
  arena.Place(&b->error, sizeof(StepFlag));
  arena.Place(&b->stamps, s.layers * sizeof(LayerStamps));
  arena.Place(&b->step_stamps, 2 * sizeof(uint64_t));
  return arena.bytes();
}

void SetShape(const ModelConfig& config, const Sizes& sizes, StepBuffers* b) {
  b->geometry = {config.attention.num_q_heads, config.attention.num_kv_heads, config.attention.head_dim};
  b->split_rule = kSplitRule;
  b->max_rows = static_cast<uint32_t>(sizes.rows);
  b->num_layers = config.num_layers;
  b->max_slots = static_cast<uint32_t>(sizes.slots);
}

}  // namespace

uint32_t RowBucket(uint32_t num_rows, bool deterministic) {
  return std::bit_ceil(std::max(num_rows, deterministic ? gpu::kMaxMatVecRows : 1u));
}

uint64_t StepBuffers::DeviceBytes(const ModelConfig& config, const DeviceLimits& limits, bool deterministic) {
  const Sizes sizes(config, limits, deterministic);
  StepBuffers buffers;
  SetShape(config, sizes, &buffers);
  return PlaceDevice(config, sizes, nullptr, &buffers);
}

absl::StatusOr<std::unique_ptr<StepBuffers>> StepBuffers::Make(const CudaContext& context) {
  const Sizes sizes(context.config, context.limits, context.options.deterministic);
  auto buffers = std::make_unique<StepBuffers>();
  SetShape(context.config, sizes, buffers.get());
  const uint64_t device_bytes = PlaceDevice(context.config, sizes, nullptr, buffers.get());
  const uint64_t pinned_bytes = PlacePinned(context.config, sizes, nullptr, buffers.get());
  TRIBUTARY_ASSIGN_OR_RETURN(buffers->device_memory, DeviceBuffer::Make(device_bytes, "decode steps"));
  TRIBUTARY_ASSIGN_OR_RETURN(buffers->pinned_memory, PinnedBuffer::Make(pinned_bytes, "decode steps"));
  PlaceDevice(context.config, sizes, buffers->device_memory.data(), buffers.get());
  PlacePinned(context.config, sizes, buffers->pinned_memory.data(), buffers.get());
  // The counters of arrivals are 0 before and after each kernel; padding rows read whatever is there.
  TRIBUTARY_RETURN_IF_CUDA_ERROR(
      cudaMemsetAsync(buffers->device_memory.data(), 0, device_bytes, context.decode_stream.get()));
  TRIBUTARY_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(context.decode_stream.get()));
  return buffers;
}

}  // namespace tributary
