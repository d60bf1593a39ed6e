// How the host device keeps a model's matrices.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace tributary {

// kStored: as in the checkpoint, 16 or 32 bits. kInt8: rounded to 8 bits as the device is made (int8_matrix.h).
enum class WeightDType : uint8_t { kStored, kInt8 };

// "stored" or "int8". INVALID_ARGUMENT otherwise.
absl::StatusOr<WeightDType> ParseWeightDType(std::string_view name);

}  // namespace tributary
