// The command line `tributary`: run, chat, generate, score, eval, status, cluster up, demo.
#include <string>
#include <vector>

#include "base/log.h"
#include "client/cli/commands.h"
#include "client/cli/demo_command.h"
#include "client/cli/options.h"
#include "client/terminal/interrupt.h"

int main(int argc, char** argv) {
  // Answers alone go to stdout: what gRPC reports must not stand between them.
  (void)tributary::InitLogging("tributary", "info");
  if (tributary::IsDemoCommand(argc, argv)) {
    return tributary::Fail(tributary::BecomeDemo(argc, argv), false);
  }
  const auto command = tributary::ParseCommandLine(argc, argv);
  if (!command.ok()) {
    return tributary::FailUsage(command.status(), std::vector<std::string>(argv + 1, argv + argc));
  }
  tributary::Interrupt stop;
  return tributary::RunCommandLine(*command, stop);
}
