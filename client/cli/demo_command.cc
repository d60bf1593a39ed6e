#include "client/cli/demo_command.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "fmt/format.h"

namespace tributary {

bool IsDemoCommand(int argc, const char* const* argv) { return argc > 1 && std::string_view(argv[1]) == "demo"; }

absl::Status BecomeDemo(int argc, const char* const* argv) {
  std::error_code error;
  const std::filesystem::path bin = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  const std::string script = bin.parent_path() / "libexec" / "tributary" / "demo.py";
  if (access(script.c_str(), R_OK) != 0) {
    return absl::UnavailableError(
        fmt::format("cannot read '{}': {}; install the whole package, or run ./dev demo in the source's folder", script,
                    std::strerror(errno)));
  }
  setenv("TRIBUTARY_BIN", bin.c_str(), 1);
  // -B: root would leave compiled scripts beside them, which the package does not know.
  std::vector<std::string> words = {"python3", "-B", script};
  words.insert(words.end(), argv + 2, argv + argc);
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  execvp(pointers.front(), pointers.data());
  return absl::UnavailableError(
      fmt::format("cannot start python3, which runs the demo: {}; install Python 3.10 or later", std::strerror(errno)));
}

}  // namespace tributary
