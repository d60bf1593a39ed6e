#include "gpu_worker/device/cuda/forward/cuda_decode.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/check.h"
#include "base/cpu_relax.h"
#include "base/status.h"
#include "fmt/format.h"
#include "gpu_worker/device/cuda/kernels/fetch.h"

namespace tributary {
namespace {

// Between two looks at whether the GPU is still healthy, in spins of some 10 ns.
constexpr uint32_t kSpinsPerHealthCheck = 1u << 16;
constexpr uint32_t kErrorReleased = 2;  // set by the host; 1: the GPU gave up waiting

uint32_t Load(const StepFlag& flag) {
  return std::atomic_ref<const uint32_t>(flag.value).load(std::memory_order_acquire);
}
void Store(StepFlag* flag, uint32_t value) {
  std::atomic_ref<uint32_t>(flag->value).store(value, std::memory_order_release);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaDecode>> CudaDecode::Make(CudaContext* context, const CudaWeights* weights,
                                                             CudaResident* resident, const CudaDeviceSeats* seats) {
  std::unique_ptr<CudaDecode> decode(new CudaDecode(context, weights, resident));
  TRIBUTARY_ASSIGN_OR_RETURN(decode->matmul_, CudaMatmul::Make(context));
  TRIBUTARY_ASSIGN_OR_RETURN(decode->buffers_, StepBuffers::Make(*context));
  const StepBuffers& b = *decode->buffers_;
  decode->graphs_ =
      std::make_unique<StepGraphs>(context, weights, seats, decode->buffers_.get(), decode->matmul_.get());
  decode->graphs_->Prepare(DType::kBf16);
  TRIBUTARY_RETURN_IF_ERROR(context->sticky);
  const uint32_t max_slots = context->limits.max_partial_slots;
  const size_t slots = size_t{context->limits.max_batch} * max_slots;
  decode->partial_slots_ = {{b.host_slot_out, slots * context->q_dim()},
                            {b.host_slot_lse_ln, slots * context->config.attention.num_q_heads},
                            max_slots};
  decode->samples_.reserve(context->limits.max_batch);
  decode->spans_.reserve(3 * size_t{b.num_layers});
  return decode;
}

void CudaDecode::Stop() {
  if (running_) Store(buffers_->error, kErrorReleased);
  running_ = false;
  cudaStreamSynchronize(context_->decode_stream.get());
}

uint64_t CudaDecode::DeviceBytes(const ModelConfig& config, const DeviceLimits& limits, bool deterministic) {
  return StepBuffers::DeviceBytes(config, limits, deterministic) + CudaMatmul::kWorkspaceBytes;
}

StepGraphKey CudaDecode::WriteRows(std::span<const DecodeRow> rows) {
  StepGraphKey key{.rows = RowBucket(static_cast<uint32_t>(rows.size()), context_->options.deterministic)};
  const ResidentRegions& regions = resident_->regions();
  wants_logits_ = false;
  for (size_t r = 0; r < key.rows; ++r) {
    gpu::DecodeRowDesc& to = buffers_->host_rows[r];
    to = {};  // padding: token 0 at position 0, no region
    buffers_->sample_rows[r] = {};
    if (buffers_->host_windowed_rows != nullptr) buffers_->host_windowed_rows[r] = {};
    if (r >= rows.size()) continue;
    const DecodeRow& from = rows[r];
    TRIBUTARY_CHECK_LT(from.token, context_->config.vocab_size);
    TRIBUTARY_CHECK_LT(from.append_slot, regions.capacity_tokens(from.resident));
    to.region = resident_->Slots(from.resident, 0, ResidentRegions::Kind::kKey);
    to.pos = from.pos;
    to.capacity_tokens = regions.capacity_tokens(from.resident);
    to.append_slot = from.append_slot;
    to.token = from.token;
    to.kv_dtype = regions.dtype(from.resident);
    to.step_tokens = from.step_tokens;
    to.wants_resident_partial = from.wants_resident_partial;
    if (CudaFacet* const facet = resident_->facet(from.resident); facet != nullptr && facet->Describe(from, &to)) {
      to.facet_kind = resident_->facet_kind(from.resident);
      key.facets |= 1u << (to.facet_kind - 1);
    }
    for (size_t i = 0; i < from.attend.size(); ++i) {
      TRIBUTARY_CHECK_LE(from.attend[i].begin, from.attend[i].end);
      TRIBUTARY_CHECK_LE(from.attend[i].end, to.capacity_tokens);
      to.attend[i] = {from.attend[i].begin, from.attend[i].end};
    }
    if (buffers_->host_windowed_rows != nullptr) {
      buffers_->host_windowed_rows[r] = to;
      for (size_t i = 0; i < from.attend_windowed.size(); ++i) {
        TRIBUTARY_CHECK_LE(from.attend_windowed[i].begin, from.attend_windowed[i].end);
        TRIBUTARY_CHECK_LE(from.attend_windowed[i].end, to.capacity_tokens);
        buffers_->host_windowed_rows[r].attend[i] = {from.attend_windowed[i].begin, from.attend_windowed[i].end};
      }
    }
    const DeviceSampling& sampling = from.sampling;
    buffers_->sample_rows[r] = {sampling.seed, sampling.position, sampling.temperature, sampling.top_p, sampling.top_k};
    wants_logits_ |= from.wants_logits;
    key.kv_dtypes |= 1u << static_cast<uint32_t>(to.kv_dtype);
    key.exchange |= from.may_have_partials;
  }
  return key;
}

void CudaDecode::BeginStep(std::span<const DecodeRow> rows) {
  TRIBUTARY_CHECK(!running_);
  TRIBUTARY_CHECK_GE(rows.size(), size_t{1});
  TRIBUTARY_CHECK_LE(rows.size(), size_t{context_->limits.max_batch});
  num_rows_ = rows.size();
  step_status_ = context_->sticky;
  times_ = {};
  if (!context_->sticky.ok()) return;
  context_->BindThread();
  const StepGraphKey key = WriteRows(rows);
  exchange_ = key.exchange;
  if (++step_number_ == 0) ++step_number_;
  buffers_->host_header->step_number = step_number_;
  std::fill_n(buffers_->host_num_slots, key.rows, 0u);
  Store(buffers_->error, 0);
  const cudaGraphExec_t graph = graphs_->Get(key);
  running_ = graph != nullptr &&
             context_->Check(cudaGraphLaunch(graph, context_->decode_stream.get()), "cudaGraphLaunch of a decode step");
}

bool CudaDecode::AwaitFlag(const StepFlag& flag) {
  for (uint32_t spins = 1; Load(flag) != step_number_; ++spins) {
    CpuRelax();
    if (spins % kSpinsPerHealthCheck != 0) continue;
    const cudaError_t state = cudaStreamQuery(context_->decode_stream.get());
    if (state == cudaErrorNotReady) continue;
    if (!context_->Check(state, "a decode step")) return false;
    // The graph is over, so whatever it rang is here.
    return Load(flag) == step_number_;
  }
  return true;
}

bool CudaDecode::CopyLogits() {
  const cudaStream_t stream = context_->decode_stream.get();
  const size_t bytes = num_rows_ * context_->config.vocab_size * sizeof(float);
  if (!context_->Check(cudaMemcpyAsync(buffers_->host_logits, buffers_->logits, bytes, cudaMemcpyDeviceToHost, stream),
                       "the copy of logits")) {
    return false;
  }
  while (true) {
    const cudaError_t state = cudaStreamQuery(stream);
    if (state != cudaErrorNotReady) return context_->Check(state, "the copy of logits");
    CpuRelax();
  }
}

std::span<const float> CudaDecode::AwaitQuery(uint32_t layer) {
  TRIBUTARY_CHECK_LT(layer, buffers_->num_layers);
  if (!exchange_ || context_->layers.is_windowed(layer)) return {};
  if (running_ && !AwaitFlag(buffers_->query_flags[layer])) running_ = false;
  return {buffers_->host_q, num_rows_ * context_->q_dim()};
}

void CudaDecode::FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots) {
  TRIBUTARY_CHECK_EQ(num_slots.size(), num_rows_);
  // Nothing of it is exchanged, and the GPU may still read the numbers of the layer before.
  if (context_->layers.is_windowed(layer)) return;
  bool even = true;
  for (size_t r = 0; r < num_slots.size(); ++r) {
    TRIBUTARY_CHECK_LE(num_slots[r], partial_slots_.max_slots);
    TRIBUTARY_CHECK(exchange_ || num_slots[r] == 0 || !context_->sticky.ok());
    buffers_->host_num_slots[r] = num_slots[r];
    even &= num_slots[r] == num_slots[0];
  }
  if (!exchange_) return;
  const uint32_t word =
      even ? gpu::EvenSlots(static_cast<uint32_t>(num_slots.size()), num_slots[0]) : gpu::kUnevenSlots;
  std::atomic_ref<uint64_t>(buffers_->partial_flags[layer].value)
      .store(gpu::HostFlag(step_number_, word), std::memory_order_release);
}

// The merge of the layer wrote it into pinned memory before the GPU rang the next layer's flag, or the step's last one;
// the next merge waits for FinishLayer().
ConstAttentionPartialView CudaDecode::resident_partial(uint32_t row_idx) const {
  TRIBUTARY_CHECK_LT(size_t{row_idx}, num_rows_);
  const size_t q_dim = context_->q_dim(), heads = context_->config.attention.num_q_heads;
  return {{buffers_->host_resident_out + row_idx * q_dim, q_dim},
          {buffers_->host_resident_lse_ln + row_idx * heads, heads}};
}

std::span<const float> CudaDecode::EndStep() {
  const size_t logits = wants_logits_ ? num_rows_ * context_->config.vocab_size : 0;
  const bool finished = running_ && AwaitFlag(*buffers_->done_flag) && (!wants_logits_ || CopyLogits());
  running_ = false;
  const uint32_t error = Load(*buffers_->error);
  if (!finished) {
    step_status_ = context_->sticky.ok() ? absl::InternalError("the GPU did not end a decode step") : context_->sticky;
  } else if (error != 0) {
    step_status_ = absl::DeadlineExceededError(
        fmt::format("the GPU waited {:.1f} s for the partials of a layer and gave the step up: the worker's "
                    "thread was stopped for that long",
                    static_cast<double>(context_->options.max_wait_ns) * 1e-9));
  } else {
    TakeTimes();
  }
  samples_.clear();
  for (size_t r = 0; r < num_rows_; ++r) {
    const gpu::SampleResult& sample = buffers_->samples[r];
    samples_.push_back({sample.token, step_status_.ok() ? sample.logprob : NAN});
  }
  if (!step_status_.ok()) std::fill_n(buffers_->host_logits, logits, NAN);
  return {buffers_->host_logits, logits};
}

void CudaDecode::TakeTimes() {
  const auto begin_ns = static_cast<int64_t>(buffers_->step_stamps[0]);
  const auto end_ns = static_cast<int64_t>(buffers_->step_stamps[1]);
  if (begin_ns == 0 || end_ns < begin_ns) return;
  times_.step_ns = end_ns - begin_ns;
  spans_.clear();
  int64_t free_ns = begin_ns;  // the end of the last wait
  for (uint32_t layer = 0; exchange_ && layer < buffers_->num_layers; ++layer) {
    if (context_->layers.is_windowed(layer)) continue;
    const LayerStamps& stamps = buffers_->stamps[layer];
    const auto query_ns = static_cast<int64_t>(stamps.query_ns);
    const auto wait_begin_ns = static_cast<int64_t>(stamps.wait_begin_ns);
    const auto wait_end_ns = static_cast<int64_t>(stamps.wait_end_ns);
    const auto index = static_cast<int32_t>(layer);
    spans_.push_back({"gpu_mlp_qkv", index, free_ns - end_ns, query_ns - end_ns});
    spans_.push_back({"gpu_local_attention", index, query_ns - end_ns, wait_begin_ns - end_ns});
    spans_.push_back({"gpu_remote_wait", index, wait_begin_ns - end_ns, wait_end_ns - end_ns});
    times_.remote_wait_ns += wait_end_ns - wait_begin_ns;
    free_ns = wait_end_ns;
  }
  spans_.push_back({exchange_ ? "gpu_mlp_logits" : "gpu_step", -1, free_ns - end_ns, 0});
  times_.spans = spans_;
}

}  // namespace tributary
