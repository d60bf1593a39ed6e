// A short name of a model for what was trained for it: two models that differ in geometry, or by any further training
// that moved their norms, have different ones; so do two dtypes that round the norms otherwise.
#pragma once

#include <string>

#include "model/weights.h"

namespace tributary {

// 16 hexadecimal digits: FNV-1a of "LAYERS,Q_HEADS,KV_HEADS,HEAD_DIM,HIDDEN,VOCAB" and then the bytes, as stored, of
// each layer's attention norm (the one behind it, where none stands before) and of the final norm. Tools that train for
// a model compute the same.
std::string ModelIdentity(const ModelWeights& weights);

}  // namespace tributary
