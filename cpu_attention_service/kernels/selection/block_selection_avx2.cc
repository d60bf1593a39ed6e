// Built with -mavx2/fma; called only where the CPU has them (block_selection.cc).
#define TRIBUTARY_KERNEL_ISA avx2
#include "cpu_attention_service/kernels/selection/select_lanes_avx2.h"
// These need Lanes.
#include "cpu_attention_service/kernels/selection/block_scores-inl.h"
#include "cpu_attention_service/kernels/selection/block_selection-inl.h"
#include "cpu_attention_service/kernels/selection/key_scores-inl.h"

namespace tributary {

BlockSelectionFns BlockSelectionAvx2() {
  return {&avx2::ScoreBlocks, &avx2::ScoreKeys, &avx2::SelectTopK, &avx2::SelectThreshold, &avx2::SelectTopP};
}

}  // namespace tributary
