#define TRIBUTARY_ROW_KERNELS_NAMESPACE row_kernels_baseline
#include "gpu_worker/device/host/row_kernels-inl.h"

namespace tributary {

const RowKernelFunctions kRowKernelsBaseline = row_kernels_baseline::kFunctions;

}  // namespace tributary
