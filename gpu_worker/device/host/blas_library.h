// OpenBLAS, loaded when the first host device is made: the kernels that it uses are chosen from this processor's
// instructions. OpenBLAS chooses by a list of processor models, and takes SSE3 kernels, several times slower, for one
// that is newer than itself.
#pragma once

#include "absl/status/statusor.h"
#include "cblas.h"

namespace tributary {

// The functions that we call, under their own names. Each call runs on the caller's thread alone. Lives as long as the
// process.
struct BlasLibrary {
  // UNAVAILABLE with the loader's message and what to install. The first call sets OPENBLAS_CORETYPE, unless the user
  // has, and OPENBLAS_NUM_THREADS in the process's environment, so it must not race with other threads that read it.
  static absl::StatusOr<const BlasLibrary*> Get();
  // The same for callers below a device, which exists only if the library could be loaded. Thread-safe.
  static const BlasLibrary& Loaded();

  decltype(&cblas_sgemm) sgemm = nullptr;
  decltype(&cblas_sgemv) sgemv = nullptr;
  decltype(&openblas_get_corename) get_corename = nullptr;
};

}  // namespace tributary
