#define TRIBUTARY_ROW_KERNELS_NAMESPACE row_kernels_avx512
#include "gpu_worker/device/host/row_kernels-inl.h"

namespace tributary {

const RowKernelFunctions kRowKernelsAvx512 = row_kernels_avx512::kFunctions;

}  // namespace tributary
