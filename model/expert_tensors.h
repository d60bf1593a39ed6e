// Experts out of tensors that hold all of a layer's (ExpertTensors::kTogether).
#pragma once

#include "model/weights.h"

namespace tributary {

// Fills in layer.experts from layer.all_*, which lie in a map: copies, [out][in] like every other matrix, which
// `weights` owns.
void SeparateExperts(const MoeSpec& moe, ModelWeights& weights, LayerWeights& layer);

}  // namespace tributary
