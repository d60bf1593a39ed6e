// Flags as the user types them: in messages that say fields, and for words that are no flag.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tributary {

// A server's words about fields of a request and parameters of policies, "window_tokens 10 is ...", with the flags that
// set them: "--window-tokens 10 is ...". Other words stay, and so do those in quotes: they are somebody's values.
std::string NameFlags(std::string_view message);
// The same for the words of an error.
absl::Status NameFlags(const absl::Status& status);

// The word of `known` that is the fewest changed letters away, or "" if none is near.
std::string Nearest(std::string_view word, std::span<const std::string> known);

}  // namespace tributary
