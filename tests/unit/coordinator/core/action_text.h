// One line per action, for scenarios and failure messages.
#pragma once

#include <string>

#include "coordinator/core/coordinator_events.h"

namespace tributary {

std::string ActionText(const Action& action);

}  // namespace tributary
