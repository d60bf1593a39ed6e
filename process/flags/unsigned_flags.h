// Flags that count something take no number that has to be changed to fit.
#pragma once

namespace CLI {
class App;
}

namespace tributary {

// Every option of the app and its subcommands that is an unsigned number, of any width, refuses a negative one and one
// beyond 64 bits with the value, where CLI11 would wrap it around; and 010 is ten, not eight. Call it once all options
// are there.
void CheckUnsignedFlags(CLI::App& app);

}  // namespace tributary
