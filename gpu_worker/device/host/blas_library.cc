#include "gpu_worker/device/host/blas_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <type_traits>

#include "base/check.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr char kLibraryName[] = "libopenblas.so.0";

// The widest of OpenBLAS's x86 kernels that this processor runs, or null to leave the choice to OpenBLAS.
const char* CoreType() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return "SkylakeX";
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
#endif
  return nullptr;
}

absl::Status Load(BlasLibrary* library) {
  constexpr int kKeepUsersChoice = 0;
  constexpr int kOverride = 1;
  if (const char* core_type = CoreType(); core_type != nullptr)
    setenv("OPENBLAS_CORETYPE", core_type, kKeepUsersChoice);
  setenv("OPENBLAS_NUM_THREADS", "1", kOverride);  // OpenBLAS starts its threads while it is loaded.
  void* handle = dlopen(kLibraryName, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return absl::UnavailableError(fmt::format(
        "OpenBLAS cannot be loaded ({}): the host device needs it; install libopenblas0-pthread, or add its folder to "
        "LD_LIBRARY_PATH",
        dlerror()));
  }
  const auto find = [&](const char* symbol, auto* function) -> absl::Status {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(handle, symbol));
    if (*function != nullptr) return absl::OkStatus();
    return absl::UnavailableError(fmt::format("{} has no {}: install libopenblas0-pthread", kLibraryName, symbol));
  };
  TRIBUTARY_RETURN_IF_ERROR(find("cblas_sgemm", &library->sgemm));
  TRIBUTARY_RETURN_IF_ERROR(find("cblas_sgemv", &library->sgemv));
  return find("openblas_get_corename", &library->get_corename);
}

}  // namespace

absl::StatusOr<const BlasLibrary*> BlasLibrary::Get() {
  static BlasLibrary library;
  static const absl::Status status = Load(&library);
  if (!status.ok()) return status;
  return &library;
}

const BlasLibrary& BlasLibrary::Loaded() {
  static const BlasLibrary* library = [] {
    const absl::StatusOr<const BlasLibrary*> loaded = Get();
    TRIBUTARY_CHECK(loaded.ok());
    return *loaded;
  }();
  return *library;
}

}  // namespace tributary
