// What the command line asks for. Parsing checks form (numbers, names, which flags go together);
// files are read later.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "client/api/request_options.h"
#include "client/eval/eval_options.h"

namespace tributary {

struct ClusterUpCommand {
  ClusterOptions cluster;
};
struct GenerateCommand {
  std::string coordinator;
  RequestOptions request;
};
struct RunCommand {
  ClusterOptions cluster;
  RequestOptions request;
};
struct ScoreCommand {
  std::string coordinator;  // "": start a local cluster, as run does
  ClusterOptions cluster;
  RequestOptions request;
};
struct EvalCommand {
  EvalOptions options;
};
struct StatusCommand {
  std::string coordinator;
  bool json = false;
};
// --help, --version: print `text` and exit with 0.
struct PrintCommand {
  std::string text;
};

using Command =
    std::variant<ClusterUpCommand, GenerateCommand, RunCommand, ScoreCommand, EvalCommand, StatusCommand, PrintCommand>;

// INVALID_ARGUMENT: the message names the flag and says what to do. `argv[0]` is skipped.
absl::StatusOr<Command> ParseCommandLine(int argc, const char* const* argv);

}  // namespace tributary
