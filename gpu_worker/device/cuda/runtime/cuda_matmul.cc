#include "gpu_worker/device/cuda/runtime/cuda_matmul.h"

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "fmt/format.h"
#include "gpu_worker/device/cuda/runtime/cuda_status.h"

namespace tributary {
namespace {

constexpr int kMaxCandidates = 12;
constexpr int kTuningRuns = 8;

cudaDataType_t ToCudaType(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    default:
      return CUDA_R_32F;
  }
}

uint64_t AlignmentOf(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return std::min<uint64_t>(256, address & (~address + 1));
}

uint64_t XStride(const MatmulArgs& args) { return args.x_stride != 0 ? args.x_stride : args.in; }
uint64_t YStride(const MatmulArgs& args) { return args.y_stride != 0 ? args.y_stride : args.out; }

}  // namespace

// What cuBLASLt calls an operation, its layouts, and the kernels that it proposes, best first.
struct CudaMatmul::Plan {
  explicit Plan(const CublasLtLibrary* lib) : library(lib) {}
  ~Plan() {
    if (operation != nullptr) library->MatmulDescDestroy(operation);
    for (cublasLtMatrixLayout_t layout : {weight, x, y}) {
      if (layout != nullptr) library->MatrixLayoutDestroy(layout);
    }
    if (preference != nullptr) library->MatmulPreferenceDestroy(preference);
  }
  const CublasLtLibrary* const library;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  std::vector<cublasLtMatmulHeuristicResult_t> candidates;
  size_t chosen = 0;
};

CudaMatmul::CudaMatmul(CudaContext* context, const CublasLtLibrary* library) : context_(context), library_(library) {}

CudaMatmul::~CudaMatmul() {
  plans_.clear();
  if (handle_ != nullptr) library_->Destroy(handle_);
}

absl::StatusOr<std::unique_ptr<CudaMatmul>> CudaMatmul::Make(CudaContext* context) {
  TRIBUTARY_ASSIGN_OR_RETURN(const CublasLtLibrary* const library, CublasLtLibrary::Get());
  std::unique_ptr<CudaMatmul> matmul(new CudaMatmul(context, library));
  TRIBUTARY_RETURN_IF_ERROR(library->ToStatus(library->Create(&matmul->handle_), "cublasLtCreate"));
  TRIBUTARY_ASSIGN_OR_RETURN(matmul->workspace_, DeviceBuffer::Make(kWorkspaceBytes, "cuBLASLt's workspace"));
  return matmul;
}

absl::Status CudaMatmul::MakePlan(const MatmulArgs& args, Plan* plan) {
  const std::string what = fmt::format("the product [{}][{}] x [{}][{}]^T", args.rows, args.in, args.out, args.in);
  const auto ok = [&](cublasStatus_t status) { return library_->ToStatus(status, what); };
  const cudaDataType_t type = ToCudaType(context_->compute_dtype);
  // cuBLASLt is column-major: our row-major [rows][n] is its n x rows.
  TRIBUTARY_RETURN_IF_ERROR(ok(library_->MatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F)));
  const cublasOperation_t transposed = CUBLAS_OP_T;
  TRIBUTARY_RETURN_IF_ERROR(ok(
      library_->MatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed))));
  TRIBUTARY_RETURN_IF_ERROR(
      ok(library_->MatrixLayoutCreate(&plan->weight, type, args.in, args.out, static_cast<int64_t>(args.in))));
  TRIBUTARY_RETURN_IF_ERROR(
      ok(library_->MatrixLayoutCreate(&plan->x, type, args.in, args.rows, static_cast<int64_t>(XStride(args)))));
  TRIBUTARY_RETURN_IF_ERROR(ok(library_->MatrixLayoutCreate(&plan->y, ToCudaType(args.y_dtype), args.out, args.rows,
                                                            static_cast<int64_t>(YStride(args)))));
  TRIBUTARY_RETURN_IF_ERROR(ok(library_->MatmulPreferenceCreate(&plan->preference)));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    return ok(library_->MatmulPreferenceSetAttribute(plan->preference, attribute, &value, sizeof(value)));
  };
  TRIBUTARY_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<size_t>(kWorkspaceBytes)));
  const auto alignment = [](const void* p) { return static_cast<uint32_t>(AlignmentOf(p)); };
  TRIBUTARY_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(args.weight)));
  TRIBUTARY_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(args.x)));
  TRIBUTARY_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(args.y)));
  TRIBUTARY_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(args.y)));
  plan->candidates.resize(kMaxCandidates);
  int found = 0;
  TRIBUTARY_RETURN_IF_ERROR(
      ok(library_->MatmulAlgoGetHeuristic(handle_, plan->operation, plan->weight, plan->x, plan->y, plan->y,
                                          plan->preference, kMaxCandidates, plan->candidates.data(), &found)));
  plan->candidates.resize(static_cast<size_t>(found));
  if (found == 0) return absl::InternalError("cuBLASLt has no kernel for " + what);
  return absl::OkStatus();
}

CudaMatmul::Plan* CudaMatmul::FindOrMakePlan(const MatmulArgs& args) {
  const uint64_t alignments = AlignmentOf(args.weight) << 32 | AlignmentOf(args.x) << 16 | AlignmentOf(args.y);
  const Key key{args.rows, args.in, args.out, XStride(args), YStride(args), args.y_dtype, args.accumulate, alignments};
  auto& plan = plans_[key];
  if (plan != nullptr) return plan.get();
  plan = std::make_unique<Plan>(library_);
  if (const absl::Status status = MakePlan(args, plan.get()); !status.ok()) {
    plans_.erase(key);
    if (context_->sticky.ok()) context_->sticky = status;
    return nullptr;
  }
  return plan.get();
}

cublasStatus_t CudaMatmul::Launch(const Plan& plan, size_t candidate, const MatmulArgs& args, cudaStream_t stream) {
  const float one = 1.0f;
  const float beta = args.accumulate ? 1.0f : 0.0f;
  return library_->Matmul(handle_, plan.operation, &one, args.weight, plan.weight, args.x, plan.x, &beta, args.y,
                          plan.y, args.y, plan.y, &plan.candidates[candidate].algo, workspace_.data(), kWorkspaceBytes,
                          stream);
}

void CudaMatmul::Run(const MatmulArgs& args, cudaStream_t stream) {
  if (args.rows == 0 || !context_->sticky.ok()) return;
  const Plan* const plan = FindOrMakePlan(args);
  if (plan == nullptr) return;
  const cublasStatus_t status = Launch(*plan, plan->chosen, args, stream);
  if (status != CUBLAS_STATUS_SUCCESS && context_->sticky.ok()) {
    context_->sticky = library_->ToStatus(status, "cublasLtMatmul");
  }
}

void CudaMatmul::Tune(const MatmulArgs& args, cudaStream_t stream) {
  if (args.rows == 0 || !context_->sticky.ok()) return;
  Plan* const plan = FindOrMakePlan(args);
  if (plan == nullptr || plan->candidates.size() < 2) return;
  cudaEvent_t begin = nullptr, end = nullptr;
  if (!context_->Check(cudaEventCreate(&begin), "cudaEventCreate") ||
      !context_->Check(cudaEventCreate(&end), "cudaEventCreate")) {
    return;
  }
  float best_ms = 0;
  for (size_t i = 0; i < plan->candidates.size(); ++i) {
    if (Launch(*plan, i, args, stream) != CUBLAS_STATUS_SUCCESS) continue;
    cudaEventRecord(begin, stream);
    for (int run = 0; run < kTuningRuns; ++run) Launch(*plan, i, args, stream);
    cudaEventRecord(end, stream);
    if (!context_->Check(cudaEventSynchronize(end), "tuning a matrix product")) break;
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (best_ms == 0 || ms < best_ms) {
      best_ms = ms;
      plan->chosen = i;
    }
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

}  // namespace tributary
