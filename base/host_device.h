// TRIBUTARY_HOST_DEVICE marks formulas that exist once, for the host and for CUDA kernels.
#pragma once

#if defined(__CUDACC__)
#define TRIBUTARY_HOST_DEVICE __host__ __device__
#else
// Always inlined: an out-of-line copy made in a file that is compiled for a newer ISA could be the
// one that the linker keeps for everybody.
#define TRIBUTARY_HOST_DEVICE __attribute__((always_inline))
#endif
