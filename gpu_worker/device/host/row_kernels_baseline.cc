#define TRIBUTARY_ROW_KERNELS_NAMESPACE row_kernels_baseline
#include "gpu_worker/device/host/row_kernels-inl.h"

namespace tributary {

const RowKernelFunctions kRowKernelsBaseline = {row_kernels_baseline::OnlineSoftmax, row_kernels_baseline::SiluMul,
                                                row_kernels_baseline::GeluMul};

}  // namespace tributary
