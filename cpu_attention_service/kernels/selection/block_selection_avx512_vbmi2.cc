// Built with the flags of block_selection_avx512_vnni.cc and -mavx512vbmi2; called only where the CPU has them
// (block_selection.cc).
#define TRIBUTARY_KERNEL_ISA avx512_vbmi2
#include "cpu_attention_service/kernels/selection/select_lanes_avx512.h"
// These need Lanes.
#include "cpu_attention_service/kernels/selection/block_scores-inl.h"
#include "cpu_attention_service/kernels/selection/block_selection-inl.h"
#include "cpu_attention_service/kernels/selection/key_scores-inl.h"

namespace tributary {

BlockSelectionFns BlockSelectionAvx512Vbmi2() {
  return {&avx512_vbmi2::ScoreBlocks, &avx512_vbmi2::ScoreKeys, &avx512_vbmi2::SelectTopK,
          &avx512_vbmi2::SelectThreshold, &avx512_vbmi2::SelectTopP};
}

}  // namespace tributary
