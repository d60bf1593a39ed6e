// Block selection without ISA flags: the plain twin, on every CPU.
#define TRIBUTARY_KERNEL_ISA scalar
#include "cpu_attention_service/kernels/selection/select_lanes_scalar.h"
// These need Lanes.
#include "cpu_attention_service/kernels/selection/block_scores-inl.h"
#include "cpu_attention_service/kernels/selection/block_selection-inl.h"
#include "cpu_attention_service/kernels/selection/key_scores-inl.h"

namespace tributary {

BlockSelectionFns BlockSelectionScalar() {
  return {&scalar::ScoreBlocks, &scalar::ScoreKeys, &scalar::SelectTopK, &scalar::SelectThreshold, &scalar::SelectTopP};
}

}  // namespace tributary
