#include "process/flags/unsigned_flags.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <limits>
#include <string>
#include <system_error>

#include "CLI/CLI.hpp"
#include "base/outside_text.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// What is wrong with a value, or "". What is no number, or stands behind its digits (a unit), is for others to judge.
std::string CheckUnsigned(std::string& text) {
  const auto refused = [&text] {
    return fmt::format("'{}' is no whole number from 0 to {}", Printable(text, kMaxShownBytes),
                       std::numeric_limits<uint64_t>::max());
  };
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string::npos) return "";
  if (text[begin] == '-' || text[begin] == '+') return refused();
  if (text[begin] < '0' || text[begin] > '9') return "";
  const bool is_hex = text.compare(begin, 2, "0x") == 0 || text.compare(begin, 2, "0X") == 0;
  if (!is_hex) {
    const size_t digit = std::min(text.find_first_not_of('0', begin), text.size());
    const bool is_zero = digit == text.size() || text[digit] < '0' || text[digit] > '9';
    text.erase(begin, digit - begin - (is_zero && digit > begin ? 1 : 0));
  }
  uint64_t value = 0;
  const char* const first = text.data() + begin + (is_hex ? 2 : 0);
  const auto [stop, error] = std::from_chars(first, text.data() + text.size(), value, is_hex ? 16 : 10);
  return error == std::errc() ? std::string() : refused();
}

}  // namespace

void CheckUnsignedFlags(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    // The type alone: get_type_name() has the names of the checks behind it.
    if (option->get_type_name().rfind("UINT", 0) != 0) continue;
    option->transform(CLI::Validator(CheckUnsigned, std::string()));
  }
  for (CLI::App* command : app.get_subcommands(nullptr)) CheckUnsignedFlags(*command);
}

}  // namespace tributary
