#include "gpu_worker/device/cuda/forward/cuda_step_graph.h"

#include <algorithm>

#include "gpu_worker/device/cuda/kernels/activation.h"
#include "gpu_worker/device/cuda/kernels/attend.h"
#include "gpu_worker/device/cuda/kernels/branch.h"
#include "gpu_worker/device/cuda/kernels/doorbell.h"
#include "gpu_worker/device/cuda/kernels/embed.h"
#include "gpu_worker/device/cuda/kernels/fetch.h"
#include "gpu_worker/device/cuda/kernels/matvec.h"
#include "gpu_worker/device/cuda/kernels/merge.h"
#include "gpu_worker/device/cuda/kernels/moe.h"
#include "gpu_worker/device/cuda/kernels/norm.h"
#include "gpu_worker/device/cuda/kernels/qkv.h"
#include "gpu_worker/device/cuda/kernels/sample.h"

namespace tributary {
namespace {

constexpr int kMinOverlapCapability = 90;
// Of the weights behind a wait for the host: 16 MiB are best on an H100 with an exchange of some 20 us, which then
// costs 2 us less per layer.
constexpr uint64_t kMaxPrefetchBytes = uint64_t{16} << 20;

gpu::GateActivation GateActivationOf(const ModelConfig& config) {
  if (config.activation == Activation::kClampedSwiglu) return gpu::GateActivation::kClampedSwiglu;
  return config.activation == Activation::kSilu ? gpu::GateActivation::kSilu : gpu::GateActivation::kGeluTanh;
}

const void* At(const void* base, uint64_t elements, DType dtype) {
  return static_cast<const std::byte*>(base) + elements * DTypeBytes(dtype);
}

}  // namespace

StepGraphs::StepGraphs(CudaContext* context, const CudaWeights* weights, const CudaDeviceSeats* seats,
                       StepBuffers* buffers, CudaMatmul* matmul)
    : context_(context),
      weights_(weights),
      seats_(seats),
      buffers_(buffers),
      matmul_(matmul),
      overlap_(context->compute_capability >= kMinOverlapCapability) {}

StepGraphs::~StepGraphs() {
  for (const auto& [key, graph] : graphs_) cudaGraphExecDestroy(graph);
}

bool StepGraphs::uses_matvec(uint32_t rows) const {
  return rows <= gpu::kMaxMatVecRows || context_->options.deterministic;
}

cudaGraphExec_t StepGraphs::Get(const StepGraphKey& key) {
  if (const auto it = graphs_.find(key); it != graphs_.end()) return it->second;
  const cudaStream_t stream = context_->decode_stream.get();
  if (!context_->Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture")) {
    return nullptr;
  }
  error_ = cudaSuccess;
  Record(key);
  cudaGraph_t graph = nullptr;
  const cudaError_t captured = cudaStreamEndCapture(stream, &graph);
  cudaGraphExec_t executable = nullptr;
  if (context_->Check(error_, "recording a decode step") && context_->Check(captured, "cudaStreamEndCapture") &&
      context_->Check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate")) {
    context_->Check(cudaGraphUpload(executable, stream), "cudaGraphUpload");
    graphs_.emplace(key, executable);
  }
  if (graph != nullptr) cudaGraphDestroy(graph);
  return executable;
}

void StepGraphs::Prepare(DType kv_dtype) {
  const uint32_t max_rows = buffers_->max_rows;
  for (uint32_t rows = RowBucket(1, context_->options.deterministic); rows <= max_rows; rows *= 2) {
    if (!uses_matvec(rows)) TuneProducts(rows);
    for (const bool exchange : {false, true}) {
      Get({rows, exchange, 1u << static_cast<uint32_t>(kv_dtype)});
    }
  }
}

void StepGraphs::Record(const StepGraphKey& key) {
  const StepBuffers& b = *buffers_;
  const ModelConfig& config = context_->config;
  const cudaStream_t stream = context_->decode_stream.get();
  Note(cudaMemcpyAsync(b.header, b.host_header, sizeof(StepHeader) + key.rows * sizeof(gpu::DecodeRowDesc),
                       cudaMemcpyHostToDevice, stream));
  if (b.windowed_rows != nullptr) {
    Note(cudaMemcpyAsync(b.windowed_rows, b.host_windowed_rows, key.rows * sizeof(gpu::DecodeRowDesc),
                         cudaMemcpyHostToDevice, stream));
  }
  // Only kernels can overlap: not the first, which comes after a copy.
  Note(gpu::RingFlag({.flag = &b.started_flag->value,
                      .value = &b.header->step_number,
                      .arrivals = b.arrivals + config.num_layers,
                      .rung_ns = &b.step_stamps[0]},
                     {stream, /*overlap=*/false}));
  const uint32_t half_dim = config.rotary_dim / 2;
  gpu::BeginRowsArgs begin{.rows = b.rows,
                           .num_rows = key.rows,
                           .table = weights_->embedding(),
                           .table_dtype = context_->compute_dtype,
                           .hidden = b.hidden,
                           .hidden_size = config.hidden_size,
                           .scale = static_cast<float>(config.embedding_scale),
                           .rope = {.num_bases = static_cast<uint32_t>(weights_->rope_bases().size()),
                                    .cos = b.cos,
                                    .sin = b.sin,
                                    .base_stride = uint64_t{b.max_rows} * half_dim,
                                    .half_dim = half_dim}};
  std::copy(weights_->rope_bases().begin(), weights_->rope_bases().end(), begin.rope.bases);
  Note(gpu::BeginRows(begin, launch()));
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    RecordNorm(key.rows, weights_->layer(layer).attention_norm, nullptr);
    RecordAttention(key, layer);
    RecordMlp(key, layer);
  }
  RecordNorm(key.rows, weights_->final_norm(), nullptr);
  Store(key.rows, {.weight = weights_->lm_head(),
                   .x = b.normed,
                   .y = b.logits,
                   .in = config.hidden_size,
                   .out = config.vocab_size});
  RecordLogits(key.rows);
  Note(gpu::Sample({.logits = b.logits,
                    .rows = b.sample_rows,
                    .results = b.samples,
                    .num_rows = key.rows,
                    .vocab_size = config.vocab_size},
                   launch()));
  Note(gpu::RingFlag({.flag = &b.done_flag->value,
                      .value = &b.header->step_number,
                      .arrivals = b.arrivals + config.num_layers,
                      .rung_ns = &b.step_stamps[1]},
                     launch()));
}

void StepGraphs::RecordAttention(const StepGraphKey& key, uint32_t layer) {
  const StepBuffers& b = *buffers_;
  const CudaLayer& w = weights_->layer(layer);
  const ModelConfig& config = context_->config;
  const auto q_dim = static_cast<uint32_t>(context_->q_dim());
  const auto qkv_dim = static_cast<uint32_t>(context_->q_dim() + 2 * context_->kv_dim());
  const LayerSpec& spec = config.layers[layer];
  const bool windowed = context_->layers.is_windowed(layer), exchange = key.exchange && !windowed;
  const bool whole_norms = config.qk_norm == QkNorm::kWholeProjection;
  const uint64_t rope = uint64_t{spec.rope} * b.max_rows * (config.rotary_dim / 2);
  Store(key.rows, {.weight = w.qkv, .x = b.normed, .y = b.qkv, .in = config.hidden_size, .out = qkv_dim});
  if (whole_norms) RecordWholeNorms(key.rows, layer);
  gpu::SplitRule rule = b.split_rule;
  if (!context_->options.deterministic) rule.split_tokens = gpu::SplitTokensFor(key.rows);
  gpu::FinishQkvArgs finish{.input = {.qkv = b.qkv,
                                      .dtype = DType::kF32,
                                      .bias = w.qkv_bias,
                                      .q_norm = whole_norms ? nullptr : w.q_norm,
                                      .k_norm = whole_norms ? nullptr : w.k_norm,
                                      .eps = static_cast<float>(config.rms_norm_eps),
                                      .cos = spec.rope == kNoRope ? nullptr : b.cos + rope,
                                      .sin = spec.rope == kNoRope ? nullptr : b.sin + rope,
                                      .pairs = {config.rotary_dim / 2, config.turns_neighbours},
                                      .num_rows = key.rows,
                                      .geometry = b.geometry},
                            .rows = b.rows,
                            .layer = layer,
                            .round_q = context_->compute_dtype != DType::kF32,  // as in prefill
                            .q = b.q};
  gpu::MergeArgs merge{.rows = windowed ? b.windowed_rows : b.rows,
                       .num_rows = key.rows,
                       .geometry = b.geometry,
                       .rule = rule,
                       .workspace = b.attend,
                       .sink_logits = w.sink_logits,
                       .out = b.normed,
                       .out_dtype = context_->compute_dtype};
  const CudaSeat::QueryReady ready = QueryReadyOf(key);
  gpu::Ring ring;
  if (exchange) {
    finish.host_q = b.host_q;
    ring = {&b.query_flags[layer].value, &b.header->step_number, b.arrivals + layer, &b.stamps[layer].query_ns};
    if (ready == CudaSeat::QueryReady::kWithQ) finish.ring = ring;
    merge.num_slots = b.num_slots;
    merge.slot_out = b.slot_out;
    merge.slot_lse_ln = b.slot_lse_ln;
    merge.max_slots = b.max_slots;
    merge.resident_out = b.host_resident_out;
    merge.resident_lse_ln = b.host_resident_lse_ln;
    merge.resident_of_all_rows = false;
  }
  Note(gpu::FinishQkv(finish, launch()));
  RecordFacets(key, layer, rule, &CudaSeat::AddAfterQuery);
  if (exchange && ready == CudaSeat::QueryReady::kAfterQuery) Note(gpu::RingFlag(ring, launch()));
  RecordAttend(key, layer, rule);
  RecordFacets(key, layer, rule, &CudaSeat::AddAfterAttention);
  if (exchange && ready == CudaSeat::QueryReady::kAfterAttention) Note(gpu::RingFlag(ring, launch()));
  if (exchange) RecordFetch(key.rows, layer);
  Note(gpu::MergePartials(merge, launch()));
  AddToStream(key.rows,
              {.weight = w.o, .x = b.normed, .y = b.hidden, .in = q_dim, .out = config.hidden_size, .bias = w.o_bias},
              w.attention_post_norm);
}

void StepGraphs::RecordWholeNorms(uint32_t rows, uint32_t layer) {
  const StepBuffers& b = *buffers_;
  const CudaLayer& w = weights_->layer(layer);
  const auto q_dim = static_cast<uint32_t>(context_->q_dim()), kv_dim = static_cast<uint32_t>(context_->kv_dim());
  const auto eps = static_cast<float>(context_->config.rms_norm_eps);
  const uint32_t stride = q_dim + 2 * kv_dim;
  Note(gpu::NormaliseSpan({b.qkv, stride, q_dim, w.q_norm, eps, rows}, launch()));
  Note(gpu::NormaliseSpan({b.qkv + q_dim, stride, kv_dim, w.k_norm, eps, rows}, launch()));
}

// The window, split over tokens.
void StepGraphs::RecordAttend(const StepGraphKey& key, uint32_t layer, const gpu::SplitRule& rule) {
  const StepBuffers& b = *buffers_;
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    if ((key.kv_dtypes >> static_cast<uint32_t>(dtype) & 1) == 0) continue;
    Note(gpu::Attend({.rows = context_->layers.is_windowed(layer) ? b.windowed_rows : b.rows,
                      .num_rows = key.rows,
                      .kv_dtype = dtype,
                      .layer = layer,
                      .geometry = b.geometry,
                      .softmax_scale = static_cast<float>(context_->config.softmax_scale),
                      .soft_cap = static_cast<float>(context_->config.attention_soft_cap),
                      .q = b.q,
                      .rule = rule,
                      .workspace = b.attend,
                      .keep_scores = WantsScores(key)},
                     launch()));
  }
}

void StepGraphs::RecordFacets(const StepGraphKey& key, uint32_t layer, const gpu::SplitRule& rule, AddNodes add) {
  for (uint32_t kind = 1; kind <= seats_->num_kinds(); ++kind) {
    if ((key.facets >> (kind - 1) & 1) == 0) continue;
    Note((seats_->seat(kind).*add)({.kind = kind,
                                    .rows = buffers_->rows,
                                    .num_rows = key.rows,
                                    .layer = layer,
                                    .geometry = buffers_->geometry,
                                    .q = buffers_->q,
                                    .sink_logits = weights_->layer(layer).sink_logits,
                                    .rule = rule,
                                    .workspace = buffers_->attend,
                                    .launch = launch()}));
  }
}

CudaSeat::QueryReady StepGraphs::QueryReadyOf(const StepGraphKey& key) const {
  CudaSeat::QueryReady latest = CudaSeat::QueryReady::kWithQ;
  for (uint32_t kind = 1; kind <= seats_->num_kinds(); ++kind) {
    if ((key.facets >> (kind - 1) & 1) != 0) latest = std::max(latest, seats_->seat(kind).query_ready());
  }
  return latest;
}

bool StepGraphs::WantsScores(const StepGraphKey& key) const {
  for (uint32_t kind = 1; kind <= seats_->num_kinds(); ++kind) {
    if ((key.facets >> (kind - 1) & 1) != 0 && seats_->seat(kind).wants_scores()) return true;
  }
  return false;
}

// Waits for the host, and brings its partials over.
void StepGraphs::RecordFetch(uint32_t rows, uint32_t layer) {
  const StepBuffers& b = *buffers_;
  Note(gpu::FetchPartials({.await = {.flag = &b.partial_flags[layer].value,
                                     .value = &b.header->step_number,
                                     .error = &b.error->value,
                                     .timeout_ns = static_cast<uint64_t>(context_->options.max_wait_ns),
                                     .begin_ns = &b.stamps[layer].wait_begin_ns,
                                     .end_ns = &b.stamps[layer].wait_end_ns},
                           .go = b.go + layer,
                           .num_rows = rows,
                           .max_slots = b.max_slots,
                           .geometry = b.geometry,
                           .host_num_slots = b.host_num_slots,
                           .host_out = b.host_slot_out,
                           .host_lse_ln = b.host_slot_lse_ln,
                           .num_slots = b.num_slots,
                           .out = b.slot_out,
                           .lse_ln = b.slot_lse_ln,
                           .next = weights_->layer(layer).o,
                           .next_bytes = std::min(kMaxPrefetchBytes, context_->q_dim() * context_->config.hidden_size *
                                                                         DTypeBytes(context_->compute_dtype))},
                          launch()));
}

void StepGraphs::RecordMlp(const StepGraphKey& key, uint32_t layer) {
  const StepBuffers& b = *buffers_;
  const CudaLayer& w = weights_->layer(layer);
  const ModelConfig& config = context_->config;
  const bool matvec = uses_matvec(key.rows);
  RecordNorm(key.rows, w.mlp_norm, matvec || !adds_at_once(w.attention_post_norm) ? nullptr : w.o_bias);
  if (config.layers[layer].is_moe) {
    RecordExperts(key.rows, layer);
    AddBranch(key.rows, nullptr, w.mlp_post_norm);
    return;
  }
  const bool fused = matvec && config.activation == Activation::kSilu;
  const Product gate_up{.weight = w.gate_up,
                        .x = b.normed,
                        .y = fused ? b.mlp : b.gate_up,
                        .in = config.hidden_size,
                        .out = 2 * config.intermediate_size,
                        .y_dtype = fused ? context_->compute_dtype : DType::kF32};
  if (fused) {
    MatVecRows(key.rows, gate_up, static_cast<int>(gpu::MatVecEpilogue::kSiluMul));
  } else {
    Store(key.rows, gate_up);
    Note(gpu::GateMul({.activation = GateActivationOf(config),
                       .gate_up = b.gate_up,
                       .out = b.mlp,
                       .dtype = DType::kF32,
                       .out_dtype = context_->compute_dtype,
                       .rows = key.rows,
                       .intermediate = config.intermediate_size},
                      launch()));
  }
  AddToStream(key.rows,
              {.weight = w.down, .x = b.mlp, .y = b.hidden, .in = config.intermediate_size, .out = config.hidden_size},
              w.mlp_post_norm);
}

void StepGraphs::RecordExperts(uint32_t rows, uint32_t layer) {
  const StepBuffers& b = *buffers_;
  const CudaLayer& w = weights_->layer(layer);
  const ModelConfig& config = context_->config;
  Store(rows,
        {.weight = w.router, .x = b.normed, .y = b.router, .in = config.hidden_size, .out = config.moe.num_experts});
  Note(gpu::ChooseExperts({.logits = b.router,
                           .bias = w.router_bias,
                           .experts = b.experts,
                           .weights = b.expert_weights,
                           .rows = rows,
                           .num_experts = config.moe.num_experts,
                           .experts_per_token = config.moe.experts_per_token,
                           .normalises_weights = config.moe.normalises_weights},
                          launch()));
  Note(gpu::RunExperts({.x = b.normed,
                        .gate_up = w.expert_gate_up,
                        .down = w.expert_down,
                        .gate_up_bias = w.expert_gate_up_bias,
                        .down_bias = w.expert_down_bias,
                        .dtype = context_->compute_dtype,
                        .activation = GateActivationOf(config),
                        .experts = b.experts,
                        .weights = b.expert_weights,
                        .gated = b.gated,
                        .out = b.branch,
                        .rows = rows,
                        .experts_per_token = config.moe.experts_per_token,
                        .hidden = config.hidden_size,
                        .intermediate = config.moe.intermediate_size},
                       launch()));
}

void StepGraphs::RecordLogits(uint32_t rows) {
  const ModelConfig& config = context_->config;
  if (config.logits_scale == 1.0 && config.logits_soft_cap == 0.0) return;
  Note(gpu::FinishLogits({.logits = buffers_->logits,
                          .count = uint64_t{rows} * config.vocab_size,
                          .scale = static_cast<float>(config.logits_scale),
                          .cap = static_cast<float>(config.logits_soft_cap)},
                         launch()));
}

void StepGraphs::AddToStream(uint32_t rows, const Product& product, const float* post_norm) {
  if (adds_at_once(post_norm)) return AddResidual(rows, product);
  Product branch = product;
  branch.y = buffers_->branch;
  branch.bias = nullptr;
  Store(rows, branch);
  AddBranch(rows, product.bias, post_norm);
}

void StepGraphs::AddBranch(uint32_t rows, const float* bias, const float* post_norm) {
  const ModelConfig& config = context_->config;
  Note(gpu::AddBranch({.branch = buffers_->branch,
                       .bias = bias,
                       .weight = post_norm,
                       .eps = static_cast<float>(config.rms_norm_eps),
                       .scale = static_cast<float>(config.residual_scale),
                       .hidden = buffers_->hidden,
                       .rows = rows,
                       .hidden_size = config.hidden_size},
                      launch()));
}

void StepGraphs::RecordNorm(uint32_t rows, const float* weight, const float* delta_bias) {
  Note(gpu::RmsNorm({.hidden = buffers_->hidden,
                     .delta_bias = delta_bias,
                     .weight = weight,
                     .eps = static_cast<float>(context_->config.rms_norm_eps),
                     .normed = buffers_->normed,
                     .normed_dtype = context_->compute_dtype,
                     .rows = rows,
                     .hidden_size = context_->config.hidden_size},
                    launch()));
}

void StepGraphs::Store(uint32_t rows, const Product& product) {
  if (uses_matvec(rows)) {
    MatVecRows(rows, product, static_cast<int>(gpu::MatVecEpilogue::kStore));
  } else {
    matmul_->Run({.weight = product.weight,
                  .x = product.x,
                  .y = product.y,
                  .rows = rows,
                  .in = product.in,
                  .out = product.out,
                  .y_dtype = product.y_dtype},
                 context_->decode_stream.get());
  }
}

void StepGraphs::AddResidual(uint32_t rows, const Product& product) {
  if (uses_matvec(rows)) {
    MatVecRows(rows, product, static_cast<int>(gpu::MatVecEpilogue::kAddResidual));
  } else {
    matmul_->Run({.weight = product.weight,
                  .x = product.x,
                  .y = product.y,
                  .rows = rows,
                  .in = product.in,
                  .out = product.out,
                  .accumulate = true},
                 context_->decode_stream.get());
  }
}

void StepGraphs::MatVecRows(uint32_t rows, const Product& product, int epilogue) {
  const auto kind = static_cast<gpu::MatVecEpilogue>(epilogue);
  const uint64_t y_row = kind == gpu::MatVecEpilogue::kSiluMul ? product.out / 2 : product.out;
  for (uint32_t begin = 0; begin < rows; begin += gpu::kMaxMatVecRows) {
    const DType x_dtype = context_->compute_dtype;
    Note(gpu::MatVec({.weights = product.weight,
                      .weight_dtype = x_dtype,
                      .x = At(product.x, uint64_t{begin} * product.in, x_dtype),
                      .bias = product.bias,
                      .y = const_cast<void*>(At(product.y, begin * y_row, product.y_dtype)),
                      .y_dtype = product.y_dtype,
                      .rows = std::min(rows - begin, gpu::kMaxMatVecRows),
                      .in = product.in,
                      .out = product.out,
                      .epilogue = kind},
                     launch()));
  }
}

void StepGraphs::TuneProducts(uint32_t rows) {
  const StepBuffers& b = *buffers_;
  const ModelConfig& config = context_->config;
  const CudaLayer& w = weights_->layer(0);
  const auto tune = [&](const void* weight, const void* x, void* y, uint64_t in, uint64_t out, bool accumulate) {
    if (weight == nullptr) return;  // layers of experts have none
    matmul_->Tune({.weight = weight, .x = x, .y = y, .rows = rows, .in = in, .out = out, .accumulate = accumulate},
                  context_->decode_stream.get());
  };
  const uint64_t q_dim = context_->q_dim();
  tune(w.qkv, b.normed, b.qkv, config.hidden_size, q_dim + 2 * context_->kv_dim(), false);
  tune(w.o, b.normed, b.hidden, q_dim, config.hidden_size, true);
  tune(w.gate_up, b.normed, b.gate_up, config.hidden_size, 2 * uint64_t{config.intermediate_size}, false);
  tune(w.down, b.mlp, b.hidden, config.intermediate_size, config.hidden_size, true);
  tune(weights_->lm_head(), b.normed, b.logits, config.hidden_size, config.vocab_size, false);
}

}  // namespace tributary
