#include "client/cli/other_program.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>

namespace tributary {

std::optional<std::vector<std::string>> ArgumentsOf(std::string_view command, int argc, const char* const* argv) {
  if (argc > 1 && argv[1] == command) return std::vector<std::string>(argv + 2, argv + argc);
  if (argc == 3 && std::string_view(argv[1]) == "help" && argv[2] == command) {
    return std::vector<std::string>{"--help"};
  }
  return std::nullopt;
}

std::filesystem::path OwnProgramFolder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

int BecomeProgram(std::vector<std::string> words) {
  setenv("TRIBUTARY_BIN", OwnProgramFolder().c_str(), 1);
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  execvp(pointers.front(), pointers.data());
  return errno;
}

}  // namespace tributary
