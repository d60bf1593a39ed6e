// Reads the budget predictor that lies beside a model: fluxion_predictor.safetensors in the model's folder, as
// tools/train_fluxion.py writes it. Its metadata say which features it reads and which model it was trained for.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "attention/shape.h"
#include "gpu_worker/device/facet.h"
#include "policy/fluxion/budget_predictor.h"

namespace tributary {

inline constexpr std::string_view kPredictorFileName = "fluxion_predictor.safetensors";

// FAILED_PRECONDITION, with the file, what does not fit and what to do: no model folder, no such file in it, another
// format or feature spec, another model. INVALID_ARGUMENT for a file that is damaged. `model` may be null.
absl::StatusOr<BudgetPredictor> LoadBudgetPredictor(const FacetModel* model, const AttentionShape& shape,
                                                    uint32_t num_layers);

}  // namespace tributary
