// Built with -mavx512f/bw/dq/vl/vnni; called only where the CPU has them (block_selection.cc).
#define TRIBUTARY_KERNEL_ISA avx512_vnni
#include "cpu_attention_service/kernels/selection/select_lanes_avx512.h"
// These need Lanes.
#include "cpu_attention_service/kernels/selection/block_scores-inl.h"
#include "cpu_attention_service/kernels/selection/block_selection-inl.h"
#include "cpu_attention_service/kernels/selection/key_scores-inl.h"

namespace tributary {

BlockSelectionFns BlockSelectionAvx512Vnni() {
  return {&avx512_vnni::ScoreBlocks, &avx512_vnni::ScoreKeys, &avx512_vnni::SelectTopK, &avx512_vnni::SelectThreshold,
          &avx512_vnni::SelectTopP};
}

}  // namespace tributary
