// What is made of the flags themselves: completion for a shell, and the manual page.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace tributary {

// A script for Bash that completes commands, flags, and the words that a flag takes.
std::string BashCompletion(const CLI::App& app);

// tributary(1), as roff.
std::string ManPage(const CLI::App& app);

}  // namespace tributary
