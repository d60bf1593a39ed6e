#include "gpu_worker/device/cuda/forward/cuda_prefill.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/status.h"
#include "fmt/format.h"
#include "gpu_worker/device/cuda/kernels/activation.h"
#include "gpu_worker/device/cuda/kernels/branch.h"
#include "gpu_worker/device/cuda/kernels/embed.h"
#include "gpu_worker/device/cuda/kernels/moe.h"
#include "gpu_worker/device/cuda/kernels/norm.h"
#include "gpu_worker/device/cuda/kernels/prefill_attend.h"

namespace tributary {
namespace {

size_t QDim(const ModelConfig& config) { return size_t{config.attention.num_q_heads} * config.attention.head_dim; }
size_t KvDim(const ModelConfig& config) { return size_t{config.attention.num_kv_heads} * config.attention.head_dim; }

gpu::KvGeometry Geometry(const AttentionShape& shape) {
  return {shape.num_q_heads, shape.num_kv_heads, shape.head_dim};
}

// Of the gate and up products: GateMul() reads f32 and bf16.
gpu::GateActivation GateActivationOf(const ModelConfig& config) {
  if (config.activation == Activation::kClampedSwiglu) return gpu::GateActivation::kClampedSwiglu;
  return config.activation == Activation::kSilu ? gpu::GateActivation::kSilu : gpu::GateActivation::kGeluTanh;
}

DType ProductDType(DType compute_dtype) { return compute_dtype == DType::kBf16 ? DType::kBf16 : DType::kF32; }

}  // namespace

uint64_t CudaPrefillShared::Place(const ModelConfig& config, DType compute_dtype, std::byte* base, Scratch* scratch) {
  uint64_t offset = 0;
  const auto place = [&](auto& pointer, uint64_t count, DType dtype) {
    using Pointer = std::remove_reference_t<decltype(pointer)>;
    pointer = reinterpret_cast<Pointer>(base + offset);
    offset += (count * DTypeBytes(dtype) + 255) / 256 * 256;
  };
  const uint64_t rows = kPrefillChunkTokens;
  const uint64_t q_dim = QDim(config);
  place(scratch->normed, rows * config.hidden_size, compute_dtype);
  place(scratch->qkv, rows * (q_dim + 2 * KvDim(config)), DType::kF32);
  place(scratch->q, rows * q_dim, DType::kF32);
  place(scratch->attended, rows * q_dim, compute_dtype);
  place(scratch->gate_up, rows * 2 * config.intermediate_size, ProductDType(compute_dtype));
  place(scratch->mlp, rows * config.intermediate_size, compute_dtype);
  place(scratch->branch, rows * config.hidden_size, DType::kF32);
  place(scratch->router, rows * config.moe.num_experts, DType::kF32);
  place(scratch->experts, rows * config.moe.experts_per_token, DType::kF32);
  place(scratch->expert_weights, rows * config.moe.experts_per_token, DType::kF32);
  place(scratch->gated, rows * config.moe.experts_per_token * config.moe.intermediate_size, DType::kF32);
  place(scratch->cos, rows * config.rotary_dim / 2, DType::kF32);
  place(scratch->sin, rows * config.rotary_dim / 2, DType::kF32);
  place(scratch->logits, config.vocab_size, DType::kF32);
  return offset;
}

uint64_t CudaPrefillShared::ScratchBytes(const ModelConfig& config, DType compute_dtype) {
  Scratch scratch;
  return Place(config, compute_dtype, nullptr, &scratch) + CudaMatmul::kWorkspaceBytes;
}

uint64_t CudaPrefill::PromptBytes(const ModelConfig& config, uint64_t num_tokens, DType kv_dtype) {
  return num_tokens *
         (sizeof(uint32_t) + config.hidden_size * sizeof(float) + 2 * KvDim(config) * DTypeBytes(kv_dtype));
}

absl::StatusOr<std::unique_ptr<CudaPrefillShared>> CudaPrefillShared::Make(CudaContext* context,
                                                                           const CudaWeights* weights,
                                                                           CudaResident* resident,
                                                                           CudaKvCopies* copies) {
  std::unique_ptr<CudaPrefillShared> shared(new CudaPrefillShared(context, weights, resident, copies));
  TRIBUTARY_ASSIGN_OR_RETURN(shared->matmul, CudaMatmul::Make(context));
  const ModelConfig& config = context->config;
  const uint64_t bytes = Place(config, context->compute_dtype, nullptr, &shared->scratch);
  TRIBUTARY_ASSIGN_OR_RETURN(shared->scratch_memory_, DeviceBuffer::Make(bytes, "prefill's working memory"));
  Place(config, context->compute_dtype, shared->scratch_memory_.data(), &shared->scratch);
  TRIBUTARY_ASSIGN_OR_RETURN(shared->logits,
                             PinnedBuffer::Make(config.vocab_size * sizeof(float), "the logits of a prompt"));
  for (CudaEvent& event : shared->unit_done_) {
    TRIBUTARY_ASSIGN_OR_RETURN(event, CudaEvent::Make());
  }
  return shared;
}

CudaPrefillShared::~CudaPrefillShared() { cudaStreamSynchronize(context->prefill_stream.get()); }

void CudaPrefillShared::BeginUnit() {
  const CudaEvent& earlier = unit_done_[num_units_ % 2];
  context->Check(cudaEventSynchronize(earlier.get()), "a prefill's chunk");
}

void CudaPrefillShared::EndUnit() {
  context->Check(cudaEventRecord(unit_done_[num_units_++ % 2].get(), context->prefill_stream.get()), "cudaEventRecord");
}

absl::StatusOr<std::unique_ptr<Prefill>> CudaPrefill::Begin(CudaPrefillShared* shared, std::span<const uint32_t> tokens,
                                                            DType kv_dtype) {
  const CudaContext& context = *shared->context;
  TRIBUTARY_RETURN_IF_ERROR(context.sticky);
  TRIBUTARY_RETURN_IF_ERROR(
      ValidatePrompt(tokens, kv_dtype, context.limits.max_prefill_tokens, context.config.vocab_size));
  std::unique_ptr<CudaPrefill> prefill(new CudaPrefill(shared, tokens.size(), kv_dtype));
  if (const absl::Status status = prefill->Allocate(); !status.ok()) {
    return absl::ResourceExhaustedError(fmt::format(
        "a prompt of {} tokens takes {} bytes of GPU memory while it is prefilled: {}; lower "
        "--resident-pool-bytes, or send shorter prompts",
        tokens.size(), PromptBytes(context.config, tokens.size(), kv_dtype), std::string(status.message())));
  }
  TRIBUTARY_RETURN_IF_ERROR(prefill->Upload(tokens));
  return prefill;
}

absl::Status CudaPrefill::Allocate() {
  const ModelConfig& config = context_->config;
  const uint64_t kv_bytes = num_tokens_ * KvDim(config) * DTypeBytes(kv_dtype_);
  TRIBUTARY_ASSIGN_OR_RETURN(projected_, CudaEvent::Make());
  TRIBUTARY_ASSIGN_OR_RETURN(tokens_, DeviceBuffer::Make(num_tokens_ * sizeof(uint32_t), "a prompt"));
  TRIBUTARY_ASSIGN_OR_RETURN(
      hidden_, DeviceBuffer::Make(num_tokens_ * config.hidden_size * sizeof(float), "a prompt's hidden states"));
  TRIBUTARY_ASSIGN_OR_RETURN(k_, DeviceBuffer::Make(kv_bytes, "one layer's K of a prompt"));
  TRIBUTARY_ASSIGN_OR_RETURN(v_, DeviceBuffer::Make(kv_bytes, "one layer's V of a prompt"));
  return absl::OkStatus();
}

absl::Status CudaPrefill::Upload(std::span<const uint32_t> tokens) {
  const ModelConfig& config = context_->config;
  // Tensor cores multiply numbers of one dtype. In f32 only what is stored is rounded.
  const bool rounds_q = context_->compute_dtype != DType::kF32 &&
                        gpu::PrefillAttendOnTensorCores(kv_dtype_, kv_dtype_, Geometry(config.attention));
  q_dtype_ = rounds_q ? kv_dtype_ : DType::kF32;
  context_->Check(cudaMemcpyAsync(tokens_.data(), tokens.data(), tokens.size_bytes(), cudaMemcpyHostToDevice, stream()),
                  "the upload of a prompt");
  gpu::BeginTokensArgs args;
  args.tokens = tokens_.as<uint32_t>();
  args.num_tokens = static_cast<uint32_t>(num_tokens_);
  args.table = weights_->embedding();
  args.table_dtype = context_->compute_dtype;
  args.hidden = hidden_.as<float>();
  args.hidden_size = config.hidden_size;
  args.scale = static_cast<float>(config.embedding_scale);
  context_->Check(gpu::BeginTokens(args, {.stream = stream()}), "BeginTokens");
  // The tokens are the caller's, and may be pageable.
  context_->Check(cudaStreamSynchronize(stream()), "the start of a prefill");
  return context_->sticky;
}

CudaPrefill::~CudaPrefill() {
  cudaStreamSynchronize(stream());
  shared_.copies->AwaitAll();
}

void CudaPrefill::Normalise(const float* weight, const float* bias, uint64_t token_begin, uint32_t rows) {
  gpu::RmsNormArgs args;
  args.hidden = hidden(token_begin);
  args.delta_bias = bias;
  args.weight = weight;
  args.eps = static_cast<float>(context_->config.rms_norm_eps);
  args.normed = scratch_.normed;
  args.normed_dtype = context_->compute_dtype;
  args.rows = rows;
  args.hidden_size = context_->config.hidden_size;
  context_->Check(gpu::RmsNorm(args, {.stream = stream()}), "RmsNorm");
}

void CudaPrefill::Multiply(const void* weight, uint64_t in, uint64_t out, const void* x, void* y, DType y_dtype,
                           uint32_t rows, bool accumulate, uint64_t y_stride) {
  shared_.matmul->Run({.weight = weight,
                       .x = x,
                       .y = y,
                       .rows = rows,
                       .in = in,
                       .out = out,
                       .y_stride = y_stride,
                       .y_dtype = y_dtype,
                       .accumulate = accumulate},
                      stream());
}

void CudaPrefill::FinishHeads(uint32_t layer, uint64_t token_begin, uint32_t rows, bool queries) {
  const ModelConfig& config = context_->config;
  const CudaLayer& w = weights_->layer(layer);
  const bool rotates = config.layers[layer].rope != kNoRope, whole = config.qk_norm == QkNorm::kWholeProjection;
  if (rotates) {
    gpu::BeginTokensArgs angles;
    angles.num_tokens = rows;
    angles.first_pos = token_begin;
    angles.context_tokens = num_tokens_;
    angles.rope = {.bases = {weights_->rope_bases()[config.layers[layer].rope]},
                   .num_bases = 1,
                   .cos = scratch_.cos,
                   .sin = scratch_.sin,
                   .half_dim = config.rotary_dim / 2};
    context_->Check(gpu::BeginTokens(angles, {.stream = stream()}), "BeginTokens");
  }
  const auto q_dim = static_cast<uint32_t>(QDim(config)), kv_dim = static_cast<uint32_t>(KvDim(config));
  if (whole) {
    context_->Check(gpu::NormaliseSpan({.rows_base = scratch_.qkv + (queries ? 0 : q_dim),
                                        .row_stride = q_dim + 2 * kv_dim,
                                        .size = queries ? q_dim : kv_dim,
                                        .weight = queries ? w.q_norm : w.k_norm,
                                        .eps = static_cast<float>(config.rms_norm_eps),
                                        .rows = rows},
                                       {.stream = stream()}),
                    "NormaliseSpan");
  }
  gpu::FinishQkvPrefillArgs args;
  args.input = {.qkv = scratch_.qkv,
                .dtype = DType::kF32,
                .bias = w.qkv_bias,
                .q_norm = whole ? nullptr : w.q_norm,
                .k_norm = whole ? nullptr : w.k_norm,
                .eps = static_cast<float>(config.rms_norm_eps),
                .cos = rotates ? scratch_.cos : nullptr,
                .sin = rotates ? scratch_.sin : nullptr,
                .pairs = {config.rotary_dim / 2, config.turns_neighbours},
                .num_rows = rows,
                .geometry = Geometry(config.attention)};
  args.q_dtype = q_dtype_;
  args.kv_dtype = kv_dtype_;
  const size_t offset = token_begin * KvDim(config) * DTypeBytes(kv_dtype_);
  args.q = queries ? scratch_.q : nullptr;
  args.k = queries ? nullptr : k_.data() + offset;
  args.v = queries ? nullptr : v_.data() + offset;
  context_->Check(gpu::FinishQkvPrefill(args, {.stream = stream()}), "FinishQkvPrefill");
}

void CudaPrefill::Project(uint32_t layer, uint64_t token_begin, uint64_t token_end) {
  TRIBUTARY_CHECK_LE(token_begin, token_end);
  TRIBUTARY_CHECK_LE(token_end, num_tokens_);
  TRIBUTARY_CHECK_LE(token_end - token_begin, uint64_t{kPrefillChunkTokens});
  if (!ok() || token_begin == token_end) return;
  const ModelConfig& config = context_->config;
  const CudaLayer& w = weights_->layer(layer);
  const auto rows = static_cast<uint32_t>(token_end - token_begin);
  const size_t q_dim = QDim(config), kv_dim = KvDim(config);
  shared_.BeginUnit();
  if (token_begin == 0) shared_.copies->MakeWait(stream());  // of the layer before, out of k_ and v_
  Normalise(w.attention_norm, nullptr, token_begin, rows);
  const std::byte* weight =
      static_cast<const std::byte*>(w.qkv) + q_dim * config.hidden_size * DTypeBytes(context_->compute_dtype);
  Multiply(weight, config.hidden_size, 2 * kv_dim, scratch_.normed, scratch_.qkv + q_dim, DType::kF32, rows,
           /*accumulate=*/false, q_dim + 2 * kv_dim);
  FinishHeads(layer, token_begin, rows, /*queries=*/false);
  context_->Check(cudaEventRecord(projected_.get(), stream()), "cudaEventRecord");
  shared_.EndUnit();
}

void CudaPrefill::Attend(uint32_t layer, uint64_t token_begin, uint64_t token_end) {
  TRIBUTARY_CHECK_LE(token_begin, token_end);
  TRIBUTARY_CHECK_LE(token_end, num_tokens_);
  TRIBUTARY_CHECK_LE(token_end - token_begin, uint64_t{kPrefillChunkTokens});
  // Of the last layer's output, only the last token's is read.
  if (layer + 1 == context_->config.num_layers) token_begin = std::max(token_begin, num_tokens_ - 1);
  if (!ok() || token_begin >= token_end) return;
  const auto rows = static_cast<uint32_t>(token_end - token_begin);
  shared_.BeginUnit();
  AttendChunk(layer, token_begin, rows);
  MlpChunk(layer, token_begin, rows);
  shared_.EndUnit();
}

void CudaPrefill::AttendChunk(uint32_t layer, uint64_t token_begin, uint32_t rows) {
  const ModelConfig& config = context_->config;
  const CudaLayer& w = weights_->layer(layer);
  const size_t q_dim = QDim(config);
  Normalise(w.attention_norm, nullptr, token_begin, rows);
  Multiply(w.qkv, config.hidden_size, q_dim, scratch_.normed, scratch_.qkv, DType::kF32, rows,
           /*accumulate=*/false, q_dim + 2 * KvDim(config));
  FinishHeads(layer, token_begin, rows, /*queries=*/true);
  gpu::PrefillAttendArgs args;
  args.q = scratch_.q;
  args.q_dtype = q_dtype_;
  args.k = k_.data();
  args.v = v_.data();
  args.kv_dtype = kv_dtype_;
  args.out = scratch_.attended;
  args.out_dtype = context_->compute_dtype;
  args.first_pos = token_begin;
  args.num_queries = rows;
  args.geometry = Geometry(config.attention);
  args.softmax_scale = static_cast<float>(config.softmax_scale);
  args.soft_cap = static_cast<float>(config.attention_soft_cap);
  args.window_tokens = config.layers[layer].sliding_window_tokens;
  args.sink_logits = w.sink_logits;
  context_->Check(gpu::PrefillAttend(args, {.stream = stream()}), "PrefillAttend");
  AddProduct(w.o, q_dim, scratch_.attended, w.o_bias, w.attention_post_norm, token_begin, rows);
}

void CudaPrefill::AddProduct(const void* weight, uint64_t in, const void* x, const float* bias, const float* post_norm,
                             uint64_t token_begin, uint32_t rows) {
  const uint64_t out = context_->config.hidden_size;
  if (adds_at_once(post_norm)) {  // the next norm adds the bias
    Multiply(weight, in, out, x, hidden(token_begin), DType::kF32, rows, /*accumulate=*/true);
    return;
  }
  Multiply(weight, in, out, x, scratch_.branch, DType::kF32, rows, /*accumulate=*/false);
  AddBranch(bias, post_norm, token_begin, rows);
}

void CudaPrefill::AddBranch(const float* bias, const float* post_norm, uint64_t token_begin, uint32_t rows) {
  const ModelConfig& config = context_->config;
  context_->Check(gpu::AddBranch({.branch = scratch_.branch,
                                  .bias = bias,
                                  .weight = post_norm,
                                  .eps = static_cast<float>(config.rms_norm_eps),
                                  .scale = static_cast<float>(config.residual_scale),
                                  .hidden = hidden(token_begin),
                                  .rows = rows,
                                  .hidden_size = config.hidden_size},
                                 {.stream = stream()}),
                  "AddBranch");
}

void CudaPrefill::RunExperts(uint32_t layer, uint32_t rows) {
  const ModelConfig& config = context_->config;
  const CudaLayer& w = weights_->layer(layer);
  Multiply(w.router, config.hidden_size, config.moe.num_experts, scratch_.normed, scratch_.router, DType::kF32, rows,
           /*accumulate=*/false);
  context_->Check(gpu::ChooseExperts({.logits = scratch_.router,
                                      .bias = w.router_bias,
                                      .experts = scratch_.experts,
                                      .weights = scratch_.expert_weights,
                                      .rows = rows,
                                      .num_experts = config.moe.num_experts,
                                      .experts_per_token = config.moe.experts_per_token,
                                      .normalises_weights = config.moe.normalises_weights},
                                     {.stream = stream()}),
                  "ChooseExperts");
  context_->Check(gpu::RunExperts({.x = scratch_.normed,
                                   .gate_up = w.expert_gate_up,
                                   .down = w.expert_down,
                                   .gate_up_bias = w.expert_gate_up_bias,
                                   .down_bias = w.expert_down_bias,
                                   .dtype = context_->compute_dtype,
                                   .activation = GateActivationOf(config),
                                   .experts = scratch_.experts,
                                   .weights = scratch_.expert_weights,
                                   .gated = scratch_.gated,
                                   .out = scratch_.branch,
                                   .rows = rows,
                                   .experts_per_token = config.moe.experts_per_token,
                                   .hidden = config.hidden_size,
                                   .intermediate = config.moe.intermediate_size},
                                  {.stream = stream()}),
                  "RunExperts");
}

void CudaPrefill::MlpChunk(uint32_t layer, uint64_t token_begin, uint32_t rows) {
  const ModelConfig& config = context_->config;
  const CudaLayer& w = weights_->layer(layer);
  const DType product_dtype = ProductDType(context_->compute_dtype);
  Normalise(w.mlp_norm, adds_at_once(w.attention_post_norm) ? w.o_bias : nullptr, token_begin, rows);
  if (config.layers[layer].is_moe) {
    RunExperts(layer, rows);
    AddBranch(nullptr, w.mlp_post_norm, token_begin, rows);
    return;
  }
  Multiply(w.gate_up, config.hidden_size, 2 * uint64_t{config.intermediate_size}, scratch_.normed, scratch_.gate_up,
           product_dtype, rows, /*accumulate=*/false);
  gpu::GateMulArgs args;
  args.activation = GateActivationOf(config);
  args.gate_up = scratch_.gate_up;
  args.dtype = product_dtype;
  args.out = scratch_.mlp;
  args.out_dtype = context_->compute_dtype;
  args.rows = rows;
  args.intermediate = config.intermediate_size;
  context_->Check(gpu::GateMul(args, {.stream = stream()}), "GateMul");
  AddProduct(w.down, config.intermediate_size, scratch_.mlp, nullptr, w.mlp_post_norm, token_begin, rows);
}

CopyTicket CudaPrefill::Read(uint64_t token_begin, uint32_t num_tokens, HeadRange heads, std::span<std::byte> k,
                             std::span<std::byte> v) {
  TRIBUTARY_CHECK_LE(token_begin + num_tokens, num_tokens_);
  const size_t offset = token_begin * KvDim(context_->config) * DTypeBytes(kv_dtype_);
  return shared_.copies->ReadRows({.k = k_.data() + offset,
                                   .v = v_.data() + offset,
                                   .num_tokens = num_tokens,
                                   .dtype = kv_dtype_,
                                   .ready = projected_.get()},
                                  heads, k, v);
}

void CudaPrefill::Keep(uint32_t layer, ResidentId id, uint64_t token_begin, SlotRange slots) {
  const AttentionShape& shape = context_->config.attention;
  const uint64_t tokens = slots.end - slots.begin;
  TRIBUTARY_CHECK_LE(slots.begin, slots.end);
  TRIBUTARY_CHECK_LE(slots.end, shared_.resident->regions().capacity_tokens(id));
  TRIBUTARY_CHECK_LE(token_begin + tokens, num_tokens_);
  TRIBUTARY_CHECK_EQ(static_cast<int>(shared_.resident->regions().dtype(id)), static_cast<int>(kv_dtype_));
  if (!ok() || tokens == 0) return;
  const size_t head_bytes = shape.head_dim * DTypeBytes(kv_dtype_);
  const size_t row_bytes = shape.num_kv_heads * head_bytes;
  using Kind = ResidentRegions::Kind;
  for (const auto& [kind, from] : {std::pair{Kind::kKey, k_.data()}, {Kind::kValue, v_.data()}}) {
    for (uint32_t head = 0; head < shape.num_kv_heads; ++head) {
      context_->Check(cudaMemcpy2DAsync(shared_.resident->Slots(id, layer, kind, head) + slots.begin * head_bytes,
                                        head_bytes, from + token_begin * row_bytes + head * head_bytes, row_bytes,
                                        head_bytes, tokens, cudaMemcpyDeviceToDevice, stream()),
                      "the copy of a prompt's KV into the window");
    }
  }
  if (CudaFacet* const facet = shared_.resident->facet(id)) facet->OnNewTokens(layer, slots, stream());
}

std::unique_ptr<const SpillSections> CudaPrefill::Leave(uint32_t layer, ResidentId id, TokenRange tokens) {
  CudaFacet* const facet = shared_.resident->facet(id);
  TRIBUTARY_CHECK(facet != nullptr);
  TRIBUTARY_CHECK_LE(tokens.end, num_tokens_);
  if (!ok() || tokens.empty()) return nullptr;
  const size_t offset = tokens.begin * context_->kv_dim() * DTypeBytes(kv_dtype_);
  return facet->OnPrompt({layer, tokens, k_.data() + offset, v_.data() + offset, stream()});
}

std::span<const float> CudaPrefill::End() {
  const ModelConfig& config = context_->config;
  if (ok()) {
    Normalise(weights_->final_norm(), nullptr, num_tokens_ - 1, 1);
    Multiply(weights_->lm_head(), config.hidden_size, config.vocab_size, scratch_.normed, scratch_.logits, DType::kF32,
             1, /*accumulate=*/false);
    if (config.logits_scale != 1.0 || config.logits_soft_cap != 0.0) {
      context_->Check(gpu::FinishLogits({.logits = scratch_.logits,
                                         .count = config.vocab_size,
                                         .scale = static_cast<float>(config.logits_scale),
                                         .cap = static_cast<float>(config.logits_soft_cap)},
                                        {.stream = stream()}),
                      "FinishLogits");
    }
    context_->Check(cudaMemcpyAsync(shared_.logits.data(), scratch_.logits, shared_.logits.bytes(),
                                    cudaMemcpyDeviceToHost, stream()),
                    "a prompt's logits");
    context_->Check(cudaStreamSynchronize(stream()), "the end of a prefill");
  }
  const std::span<float> logits = shared_.logits.span<float>();
  // Whoever samples from them sees that there are none.
  if (!ok()) std::fill(logits.begin(), logits.end(), std::numeric_limits<float>::quiet_NaN());
  return logits;
}

}  // namespace tributary
