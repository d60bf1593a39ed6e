// `tributary eval` against a running cluster.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/api/client.h"
#include "client/eval/eval_plan.h"
#include "client/terminal/interrupt.h"

namespace tributary {

// Whether the files of the options can be written: asked before hours of work.
absl::Status CheckOutputs(const EvalOptions& options);

// Where the answers of a run with this JSON file stand until it is complete.
std::string JournalPath(const std::string& json_file);

// Who is asked: a coordinator that runs, or a local cluster that can be started again.
class EvalTarget {
 public:
  virtual ~EvalTarget() = default;

  virtual Client& client() = 0;
  // After a failed request: sees to it that there is a cluster, a new one if the old one is lost. An error: there is
  // none, and no use in asking on.
  virtual absl::Status Renew(const absl::Status& error) = 0;
  // Ends what runs. Any thread.
  virtual void CancelAll() = 0;
};

// Runs the plan; prints the table, writes the files of the options, after every setting. When it is interrupted or
// fails halfway, what was found is still printed and written (JSON: complete = false), and the error returned; with a
// JSON file, the same call goes on where it was, from the answers in JSON_FILE.journal, which a complete run deletes.
absl::Status EvalOnCluster(EvalTarget& target, EvalPlan plan, Interrupt& stop);

}  // namespace tributary
