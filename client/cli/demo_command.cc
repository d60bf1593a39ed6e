#include "client/cli/demo_command.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "client/cli/other_program.h"
#include "fmt/format.h"

namespace tributary {

absl::Status BecomeDemo(const std::vector<std::string>& arguments) {
  const std::string script = OwnProgramFolder().parent_path() / "libexec" / "tributary" / "demo.py";
  if (access(script.c_str(), R_OK) != 0) {
    return absl::UnavailableError(
        fmt::format("cannot read '{}': {}; install the whole package, or run ./dev demo in the source's folder", script,
                    std::strerror(errno)));
  }
  // -B: root would leave compiled scripts beside them, which the package does not know.
  std::vector<std::string> words = {"python3", "-B", script};
  words.insert(words.end(), arguments.begin(), arguments.end());
  const int error = BecomeProgram(words);
  return absl::UnavailableError(
      fmt::format("cannot start python3, which runs the demo: {}; install Python 3.10 or later", std::strerror(error)));
}

}  // namespace tributary
