// Commands that another program carries out, with their arguments as they are.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tributary {

// ARGUMENTS of the command line "tributary COMMAND ARGUMENTS"; --help for "tributary help COMMAND". Nothing if it is
// about another command.
std::optional<std::vector<std::string>> ArgumentsOf(std::string_view command, int argc, const char* const* argv);

// The folder that this program lies in.
std::filesystem::path OwnProgramFolder();

// Becomes the program of the first word, which is looked for in PATH unless it has a slash; it and what it starts find
// this build's programs by $TRIBUTARY_BIN. Returns only if it could not be started: errno says why.
int BecomeProgram(std::vector<std::string> words);

}  // namespace tributary
