#include "client/cli/serve_command.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "client/cli/other_program.h"
#include "fmt/format.h"

namespace tributary {

absl::Status BecomeServe(const std::vector<std::string>& arguments) {
  constexpr const char* kProgram = "tributary-serve";
  const std::string beside = OwnProgramFolder() / kProgram;
  std::vector<std::string> words = {access(beside.c_str(), X_OK) == 0 ? beside : kProgram};
  words.insert(words.end(), arguments.begin(), arguments.end());
  const int error = BecomeProgram(words);
  if (error == ENOENT) {
    return absl::UnavailableError(
        fmt::format("there is no {0} beside this program or in PATH: it comes with the Python package; install that in "
                    "the source's folder with 'python3 -m venv .venv && .venv/bin/pip install ./python[serve]', and "
                    "run .venv/bin/{0} or put .venv/bin into PATH",
                    kProgram));
  }
  return absl::UnavailableError(fmt::format("cannot start '{}': {}", words.front(), std::strerror(error)));
}

}  // namespace tributary
