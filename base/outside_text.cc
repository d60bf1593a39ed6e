#include "base/outside_text.h"

#include <iterator>

#include "fmt/format.h"

namespace tributary {
namespace {

constexpr size_t kShownBytes = 32;  // of a text that is too long

bool IsControl(unsigned char byte) { return byte < 0x20 || byte == 0x7f; }

// U+0080 to U+009F in UTF-8: some terminals take them for escape sequences.
bool IsC1(std::string_view text, size_t i) {
  return static_cast<unsigned char>(text[i]) == 0xc2 && i + 1 < text.size() &&
         static_cast<unsigned char>(text[i + 1]) >= 0x80 && static_cast<unsigned char>(text[i + 1]) < 0xa0;
}

// The first control character, or the text's size.
size_t FindControl(std::string_view text) {
  size_t i = 0;
  while (i < text.size() && !IsControl(static_cast<unsigned char>(text[i])) && !IsC1(text, i)) ++i;
  return i;
}

// At most `max_bytes`, without half a UTF-8 character at the end.
std::string_view Cut(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  while (max_bytes > 0 && (static_cast<unsigned char>(text[max_bytes]) & 0xc0) == 0x80) --max_bytes;
  return text.substr(0, max_bytes);
}

}  // namespace

bool IsPrintable(std::string_view text) { return FindControl(text) == text.size(); }

void AppendPrintable(std::string_view text, std::string* to) {
  while (true) {
    const size_t clean = FindControl(text);
    to->append(text.substr(0, clean));
    if (clean == text.size()) return;
    const auto byte = static_cast<unsigned char>(text[clean]);
    const size_t count = byte == 0xc2 ? 2 : 1;
    if (byte == '\n') {
      to->append("\\n");
    } else if (byte == '\t') {
      to->append("\\t");
    } else {
      for (size_t i = 0; i < count; ++i) {
        fmt::format_to(std::back_inserter(*to), "\\x{:02x}", static_cast<unsigned char>(text[clean + i]));
      }
    }
    text.remove_prefix(clean + count);
  }
}

std::string Printable(std::string_view text, size_t max_bytes) {
  std::string printable;
  AppendPrintable(Cut(text, max_bytes), &printable);
  if (text.size() > max_bytes) fmt::format_to(std::back_inserter(printable), "... ({} bytes)", text.size());
  return printable;
}

absl::Status CheckOutsideText(std::string_view what, std::string_view text, size_t max_bytes) {
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(fmt::format("{} has {} bytes; at most {} are allowed (it begins '{}')", what,
                                                  text.size(), max_bytes, Printable(Cut(text, kShownBytes))));
  }
  if (const size_t at = FindControl(text); at != text.size()) {
    return absl::InvalidArgumentError(
        fmt::format("{} '{}' has a control character at byte {}; use printable text", what, Printable(text), at));
  }
  return absl::OkStatus();
}

}  // namespace tributary
