// What a command says: answers on standard output, everything else on standard error. A write that fails does not end
// the process in the middle of something; it is remembered, and the command's exit status tells it.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "fmt/format.h"

namespace tributary {

// Writes to standard output and hands it to the operating system. False once any write has failed: nobody reads on, or
// there is no space, so there is no use in going on. Thread-compatible.
bool WriteOut(std::string_view text);
// The same for standard error, whose failures nobody can be told.
void WriteErr(std::string_view text);

template <typename... Args>
bool PrintOut(fmt::format_string<Args...> format, Args&&... args) {
  return WriteOut(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void PrintErr(fmt::format_string<Args...> format, Args&&... args) {
  WriteErr(fmt::format(format, std::forward<Args>(args)...));
}

// True once the reader of standard output has gone (EPIPE), as `head` does: no fault, but no use in going on either.
bool OutReaderHasGone();
// OK, or why standard output did not take all of it: UNAVAILABLE with the reason.
absl::Status OutStatus();

}  // namespace tributary
