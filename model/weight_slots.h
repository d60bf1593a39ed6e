// The tensors that an architecture asks for, by name, shape and role. For the .cc files of model/.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/weights.h"

namespace tributary {

struct WeightSlot {
  std::string name;  // as Hugging Face's checkpoints have it
  std::vector<uint64_t> shape;
  const TensorView** destination;  // in the ModelWeights that were asked
};

// Every tensor of weights.config once; a tied lm_head is not among them. Sizes weights.layers.
std::vector<WeightSlot> AllWeightSlots(ModelWeights& weights);

// Once the slots are filled: cuts fused tensors into those that they hold, and gives a tied model its head.
void FinishWeights(ModelWeights& weights);

}  // namespace tributary
