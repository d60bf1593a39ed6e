// Weights of the right shapes with random values, for measuring geometries without a checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "model/weights.h"

namespace tributary {

// Reads DIR/config.json alone. Matrices and biases are drawn from a distribution of mean 0 and standard deviation
// 0.02 (what transformers are initialised with), norm weights are 1; type = the config's (bf16 if it states none).
//
// The values repeat: every tensor is a view, at a place of its own, into one block of 16 M values that is mapped over
// and over, so that any model takes 32 MiB of memory and no time. The same seed gives the same bits on every machine.
//
// LoadModelConfig's errors; RESOURCE_EXHAUSTED when the maps cannot be made.
absl::StatusOr<std::shared_ptr<const ModelWeights>> MakeDummyWeights(const std::filesystem::path& model_dir,
                                                                     uint64_t seed);

}  // namespace tributary
