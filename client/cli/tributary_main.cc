// The command line `tributary`: cluster up, generate, run, score, status, demo.
#include <string>

#include "base/log.h"
#include "client/cli/commands.h"
#include "client/cli/demo_command.h"
#include "client/cli/options.h"
#include "client/terminal/interrupt.h"
#include "fmt/format.h"

int main(int argc, char** argv) {
  // Answers alone go to stdout: what gRPC reports must not stand between them.
  (void)tributary::InitLogging("tributary", "info");
  if (tributary::IsDemoCommand(argc, argv)) {
    fmt::print(stderr, "tributary: {}\n", std::string(tributary::BecomeDemo(argc, argv).message()));
    return tributary::kExitError;
  }
  const auto command = tributary::ParseCommandLine(argc, argv);
  if (!command.ok()) {
    fmt::print(stderr, "tributary: {}\nRun 'tributary --help' or 'tributary COMMAND --help' for the flags.\n",
               std::string(command.status().message()));
    return tributary::kExitUsage;
  }
  tributary::Interrupt stop;
  return tributary::RunCommandLine(*command, stop);
}
