// The block-selection kernels of this binary, and the choice among them. Thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "cpu_attention_service/kernels/selection/block_selection_args.h"

namespace tributary {

struct BlockSelectionKernel {
  const char* name;
  uint32_t required_isa;  // bits of IsaFeature (kernels.h)
  BlockSelectionFns fns;
};

namespace block_selection {

// Every variant built in, best first; the last one runs everywhere.
std::span<const BlockSelectionKernel> All();
// The best that this machine supports.
const BlockSelectionKernel& Best();
// NOT_FOUND (the names there are) or FAILED_PRECONDITION (this machine lacks the ISA).
absl::StatusOr<const BlockSelectionKernel*> Find(std::string_view name);

// What a call can be refused for, before a kernel sees it: INVALID_ARGUMENT with the value that is wrong.
absl::Status Validate(const ScoreBlocksArgs& args);
absl::Status Validate(const ScoreKeysArgs& args);

}  // namespace block_selection
}  // namespace tributary
