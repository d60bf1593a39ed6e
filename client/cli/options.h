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
#include "rpc/security/security_options.h"

namespace tributary {

struct ClusterUpCommand {
  ClusterOptions cluster;
};
struct GenerateCommand {
  std::string coordinator;
  TlsFiles tls;
  std::string model_dir;  // "": no tokenizer but that of request.tokenizer_dir
  RequestOptions request;
};
struct RunCommand {
  ClusterOptions cluster;
  RequestOptions request;
};
struct ScoreCommand {
  std::string coordinator;  // "": start a local cluster, as run does
  TlsFiles tls;
  ClusterOptions cluster;
  RequestOptions request;
};
inline RequestOptions ChatDefaults() {
  RequestOptions request;
  request.max_tokens = 1024;
  request.keep_s = 600;
  request.keep_context_tokens = 8192;
  return request;
}
struct ChatCommand {
  std::string coordinator;  // "": start a local cluster, as run does; else cluster.model_dir is the tokenizer's folder
  TlsFiles tls;
  ClusterOptions cluster;
  RequestOptions request = ChatDefaults();
  std::string system;  // what the chat begins with; "": nothing
};
struct EvalCommand {
  EvalOptions options;
};
struct StatusCommand {
  std::string coordinator;
  TlsFiles tls;
  bool json = false;
  double watch_s = 0;  // 0: once
};
// --help, --version: print `text` and exit with 0.
struct PrintCommand {
  std::string text;
};

using Command = std::variant<ClusterUpCommand, GenerateCommand, RunCommand, ScoreCommand, ChatCommand, EvalCommand,
                             StatusCommand, PrintCommand>;

// Flags come from the command line, from variables TRIBUTARY_<FLAG> of the environment, and from the file of --config,
// in this order. INVALID_ARGUMENT: the message names the flag, where its value is from, and says what to do. `argv[0]`
// is skipped.
absl::StatusOr<Command> ParseCommandLine(int argc, const char* const* argv);

}  // namespace tributary
