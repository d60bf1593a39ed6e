#define TRIBUTARY_ROW_KERNELS_NAMESPACE row_kernels_avx2
#include "gpu_worker/device/host/row_kernels-inl.h"

namespace tributary {

const RowKernelFunctions kRowKernelsAvx2 = row_kernels_avx2::kFunctions;

}  // namespace tributary
