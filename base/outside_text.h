// Text that came from outside: names are checked before they are kept, and nothing of it reaches a log or a terminal
// with control characters, which could forge lines or move the cursor.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tributary {

// Bytes of a name or word from outside that a message shows (Printable).
inline constexpr size_t kMaxShownBytes = 64;

// `text` with control characters escaped (\n, \t, \x1b, and the C1 controls of UTF-8), and bytes that are no UTF-8
// (\xe9), cut after `max_bytes` of input with a note of its length. Everything else stays as it is.
std::string Printable(std::string_view text, size_t max_bytes = std::string_view::npos);

// Does the same for text that is added to what is there.
void AppendPrintable(std::string_view text, std::string* to);

// True if Printable() would change nothing.
bool IsPrintable(std::string_view text);

// INVALID_ARGUMENT with the length and the limit for a `what` ("node id") that is too long, or with the place of a
// control character or of a byte that is no UTF-8 (which no message can carry). Empty text is fine: who needs a name
// says so itself.
absl::Status CheckOutsideText(std::string_view what, std::string_view text, size_t max_bytes);

}  // namespace tributary
