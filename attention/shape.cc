#include "attention/shape.h"

#include "base/limits.h"
#include "fmt/format.h"

namespace tributary {
namespace {

absl::Status CheckSize(const char* name, uint32_t value, uint32_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("attention shape: {} is {}; it must be in [1, {}]", name, value, max));
}

}  // namespace

absl::Status Validate(const AttentionShape& shape) {
  for (const absl::Status& status : {CheckSize("num_q_heads", shape.num_q_heads, limits::kMaxHeads),
                                     CheckSize("num_kv_heads", shape.num_kv_heads, limits::kMaxHeads),
                                     CheckSize("head_dim", shape.head_dim, limits::kMaxHeadDim)}) {
    if (!status.ok()) return status;
  }
  if (shape.num_q_heads % shape.num_kv_heads != 0) {
    return absl::InvalidArgumentError(
        fmt::format("attention shape: num_q_heads {} is not a multiple of num_kv_heads {}; every KV head must "
                    "serve the same number of query heads",
                    shape.num_q_heads, shape.num_kv_heads));
  }
  return CheckSize("group_size (num_q_heads / num_kv_heads)", shape.group_size(), limits::kMaxGroupSize);
}

}  // namespace tributary
