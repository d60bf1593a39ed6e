// Where flags come from besides the command line, and what to say about those that cannot be used.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace tributary {

struct Arguments {
  std::vector<std::string> words;              // behind the program's name, with the flags of the other sources
  std::map<std::string, std::string> sources;  // of a flag that is not from the command line, what it is from
};

// The command of this name right under `app`; nullptr if there is none.
const CLI::App* FindCommand(const CLI::App& app, const std::string& name);

// --config of a command that takes flags.
void AddConfigFlag(CLI::App& command);

// Adds to the command line what it does not say of its command's flags: first variables of the environment,
// TRIBUTARY_WINDOW_TOKENS for --window-tokens, then lines "window-tokens = 128" of the file that --config names (TOML
// or INI; behind "[run]" they are for that command). A file may have flags of other commands. INVALID_ARGUMENT: the
// file cannot be read, or has what is no flag of any command; a switch is neither true nor false.
absl::StatusOr<Arguments> CompleteArguments(const CLI::App& app, int argc, const char* const* argv);

// What CLI11 says of arguments that it could not use, with what was meant or where the value is from.
// INVALID_ARGUMENT.
absl::Status ExplainParseError(const CLI::App& app, const Arguments& arguments, std::string_view what);

}  // namespace tributary
