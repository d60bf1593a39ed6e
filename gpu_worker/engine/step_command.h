// One decode step, as the coordinator forms it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/ids.h"

namespace tributary {

struct StepCommand {
  StepId step_id;
  int64_t timeout_ns = 0;  // 0: EngineOptions::step_timeout_ns
  std::vector<SequenceId> sequence_ids;
};

}  // namespace tributary
