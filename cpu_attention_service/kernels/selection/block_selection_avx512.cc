// Built with -mavx512f/bw/dq/vl; called only where the CPU has them (block_selection.cc).
#define TRIBUTARY_KERNEL_ISA avx512
#include "cpu_attention_service/kernels/selection/select_lanes_avx512.h"
// These need Lanes.
#include "cpu_attention_service/kernels/selection/block_scores-inl.h"
#include "cpu_attention_service/kernels/selection/block_selection-inl.h"
#include "cpu_attention_service/kernels/selection/key_scores-inl.h"

namespace tributary {

BlockSelectionFns BlockSelectionAvx512() {
  return {&avx512::ScoreBlocks, &avx512::ScoreKeys, &avx512::SelectTopK, &avx512::SelectThreshold, &avx512::SelectTopP};
}

}  // namespace tributary
