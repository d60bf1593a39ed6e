#include "gpu_worker/device/cuda/runtime/cublaslt_library.h"

#include <dlfcn.h>

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

absl::Status Load(CublasLtLibrary* library) {
  const std::string name = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
  void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  const std::string error = handle == nullptr ? dlerror() : "";
  if (handle == nullptr) {
    handle = dlopen((std::string(TRIBUTARY_CUDA_LIBRARY_DIR "/") + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  if (handle == nullptr) {
    return absl::UnavailableError(
        fmt::format("cuBLASLt cannot be loaded ({}; nor is it in {}): install the CUDA {} libraries "
                    "(libcublas), add their folder to LD_LIBRARY_PATH, or use --device host",
                    error, TRIBUTARY_CUDA_LIBRARY_DIR, CUBLAS_VER_MAJOR));
  }
  const auto find = [&](const char* symbol, auto* function) -> absl::Status {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(handle, symbol));
    if (*function != nullptr) return absl::OkStatus();
    return absl::UnavailableError(fmt::format("{} has no {}: install the CUDA {}.{} libraries or later ones", name,
                                              symbol, CUBLAS_VER_MAJOR, CUBLAS_VER_MINOR));
  };
#define TRIBUTARY_FIND(function) TRIBUTARY_RETURN_IF_ERROR(find("cublasLt" #function, &library->function))
  TRIBUTARY_FIND(GetStatusName);
  TRIBUTARY_FIND(Create);
  TRIBUTARY_FIND(Destroy);
  TRIBUTARY_FIND(Matmul);
  TRIBUTARY_FIND(MatmulDescCreate);
  TRIBUTARY_FIND(MatmulDescDestroy);
  TRIBUTARY_FIND(MatmulDescSetAttribute);
  TRIBUTARY_FIND(MatrixLayoutCreate);
  TRIBUTARY_FIND(MatrixLayoutDestroy);
  TRIBUTARY_FIND(MatmulPreferenceCreate);
  TRIBUTARY_FIND(MatmulPreferenceDestroy);
  TRIBUTARY_FIND(MatmulPreferenceSetAttribute);
  TRIBUTARY_FIND(MatmulAlgoGetHeuristic);
#undef TRIBUTARY_FIND
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<const CublasLtLibrary*> CublasLtLibrary::Get() {
  static CublasLtLibrary library;
  static const absl::Status status = Load(&library);
  if (!status.ok()) return status;
  return &library;
}

absl::Status CublasLtLibrary::ToStatus(cublasStatus_t status, const std::string& what) const {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(fmt::format("cuBLASLt: {} in {}", GetStatusName(status), what));
}

}  // namespace tributary
