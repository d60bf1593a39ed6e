#include "gpu_worker/device/host/weight_dtype.h"

#include "absl/status/status.h"
#include "fmt/format.h"

namespace tributary {

absl::StatusOr<WeightDType> ParseWeightDType(std::string_view name) {
  if (name == "stored") return WeightDType::kStored;
  if (name == "int8") return WeightDType::kInt8;
  return absl::InvalidArgumentError(fmt::format("unknown weight dtype '{}'; use stored or int8", name));
}

}  // namespace tributary
