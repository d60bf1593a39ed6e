// The command line `tributary`: run, chat, generate, score, eval, status, cluster up, demo, serve.
#include <string>
#include <vector>

#include "base/log.h"
#include "client/cli/commands.h"
#include "client/cli/demo_command.h"
#include "client/cli/options.h"
#include "client/cli/other_program.h"
#include "client/cli/serve_command.h"
#include "client/terminal/interrupt.h"

int main(int argc, char** argv) {
  // Answers alone go to stdout: what gRPC reports must not stand between them.
  (void)tributary::InitLogging("tributary", "info");
  if (const auto arguments = tributary::ArgumentsOf("demo", argc, argv)) {
    return tributary::Fail(tributary::BecomeDemo(*arguments), false);
  }
  if (const auto arguments = tributary::ArgumentsOf("serve", argc, argv)) {
    return tributary::Fail(tributary::BecomeServe(*arguments), false);
  }
  const auto command = tributary::ParseCommandLine(argc, argv);
  if (!command.ok()) {
    return tributary::FailUsage(command.status(), std::vector<std::string>(argv + 1, argv + argc));
  }
  tributary::Interrupt stop;
  return tributary::RunCommandLine(*command, stop);
}
