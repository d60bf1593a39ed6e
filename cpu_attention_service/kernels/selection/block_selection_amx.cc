// Built with the flags of block_selection_avx512_vbmi2.cc and -mamx-tile/int8; called only where the CPU has them
// (block_selection.cc).
#define TRIBUTARY_KERNEL_ISA amx_int8
#include "cpu_attention_service/kernels/selection/select_lanes_avx512.h"
// These need Lanes.
#include "cpu_attention_service/kernels/selection/block_scores-inl.h"
#include "cpu_attention_service/kernels/selection/block_selection-inl.h"
#include "cpu_attention_service/kernels/selection/key_scores-inl.h"
// Needs the queries and thresholds above.
#include "cpu_attention_service/kernels/selection/key_scores_amx-inl.h"

namespace tributary {

BlockSelectionFns BlockSelectionAmx() {
  return {&amx_int8::ScoreBlocks, &amx_int8::ScoreKeysByTiles, &amx_int8::SelectTopK, &amx_int8::SelectThreshold,
          &amx_int8::SelectTopP};
}

}  // namespace tributary
