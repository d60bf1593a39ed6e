// Flags of `tributary eval`.
#pragma once

#include "client/eval/eval_options.h"

namespace CLI {
class App;
}

namespace tributary {

void AddEvalFlags(CLI::App& app, EvalOptions& options);

}  // namespace tributary
