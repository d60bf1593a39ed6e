// Flags that are numbers take none that has to be changed to fit, and none that is not finite.
#pragma once

#include <string>
#include <string_view>

namespace CLI {
class App;
}

namespace tributary {

// Every option of the app and its subcommands that is an unsigned number, of any width, refuses a negative one and one
// beyond 64 bits with the value, where CLI11 would wrap it around; and 010 is ten, not eight. One that is a floating
// number refuses nan and inf, which lie in every range that CLI11 compares with. Call it once all options are there.
void CheckNumberFlags(CLI::App& app);

// What CLI11 says of a value that it could not convert, with the value and what the flag takes: "--window-tokens:
// '10000000000' is no whole number from 0 to 4294967295". Other words stay. Flags that count have 32 or 64 bits, those
// that may be negative 32.
std::string ExplainNumberError(const CLI::App& app, std::string_view what);

}  // namespace tributary
