// `tributary eval` against a running cluster.
#pragma once

#include "absl/status/status.h"
#include "client/api/client.h"
#include "client/eval/eval_plan.h"
#include "client/terminal/interrupt.h"

namespace tributary {

// Whether the files of the options can be written: asked before hours of work.
absl::Status CheckOutputs(const EvalOptions& options);

// Runs the plan; prints the table, writes the files of the options, after every setting. When it is interrupted or
// fails halfway, what was found is still printed and written (JSON: complete = false), and the error returned.
absl::Status EvalOnCluster(Client& client, EvalPlan plan, Interrupt& stop);

}  // namespace tributary
