#include "base/outside_text.h"

#include <algorithm>

#include "fmt/format.h"

namespace tributary {
namespace {

constexpr size_t kShownBytes = 32;  // of a text that is too long

bool IsContinuation(std::string_view text, size_t i) {
  return i < text.size() && (static_cast<unsigned char>(text[i]) & 0xc0) == 0x80;
}

// Bytes of the UTF-8 character that begins at `i`; 0 if none does. (Unicode 15, table 3-7: no surrogates, nothing that
// could be written shorter.)
size_t CharacterBytes(std::string_view text, size_t i) {
  const auto first = static_cast<unsigned char>(text[i]);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4 || !IsContinuation(text, i + 1)) return 0;
  if (first < 0xe0) return 2;
  const auto second = static_cast<unsigned char>(text[i + 1]);
  if (!IsContinuation(text, i + 2)) return 0;
  if (first < 0xf0) return (first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ? 0 : 3;
  if (!IsContinuation(text, i + 3)) return 0;
  return (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f) ? 0 : 4;
}

// U+0000 to U+001F, U+007F, and U+0080 to U+009F in UTF-8, which some terminals take for escape sequences.
bool IsControl(std::string_view text, size_t i) {
  const auto byte = static_cast<unsigned char>(text[i]);
  return byte < 0x20 || byte == 0x7f || (byte == 0xc2 && static_cast<unsigned char>(text[i + 1]) < 0xa0);
}

// The first control character or byte that is no UTF-8, or the text's size.
size_t FindUnprintable(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const size_t bytes = CharacterBytes(text, i);
    if (bytes == 0 || IsControl(text, i)) break;
    i += bytes;
  }
  return i;
}

// At most `max_bytes`, without half a UTF-8 character at the end.
std::string_view Cut(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  while (max_bytes > 0 && (static_cast<unsigned char>(text[max_bytes]) & 0xc0) == 0x80) --max_bytes;
  return text.substr(0, max_bytes);
}

}  // namespace

bool IsPrintable(std::string_view text) { return FindUnprintable(text) == text.size(); }

void AppendPrintable(std::string_view text, std::string* to) {
  while (true) {
    const size_t clean = FindUnprintable(text);
    to->append(text.substr(0, clean));
    if (clean == text.size()) return;
    const auto byte = static_cast<unsigned char>(text[clean]);
    const size_t count = std::max<size_t>(1, CharacterBytes(text, clean));
    if (byte == '\n') {
      to->append("\\n");
    } else if (byte == '\t') {
      to->append("\\t");
    } else {
      for (size_t i = 0; i < count; ++i) {
        *to += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[clean + i]));
      }
    }
    text.remove_prefix(clean + count);
  }
}

std::string Printable(std::string_view text, size_t max_bytes) {
  std::string printable;
  AppendPrintable(Cut(text, max_bytes), &printable);
  if (text.size() > max_bytes) printable += fmt::format("... ({} bytes)", text.size());
  return printable;
}

absl::Status CheckOutsideText(std::string_view what, std::string_view text, size_t max_bytes) {
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(fmt::format("{} has {} bytes; at most {} are allowed (it begins '{}')", what,
                                                  text.size(), max_bytes, Printable(Cut(text, kShownBytes))));
  }
  if (const size_t at = FindUnprintable(text); at != text.size()) {
    const char* const found = CharacterBytes(text, at) == 0 ? "a byte that is not UTF-8" : "a control character";
    return absl::InvalidArgumentError(
        fmt::format("{} '{}' has {} at byte {}; use printable text", what, Printable(text), found, at));
  }
  return absl::OkStatus();
}

}  // namespace tributary
