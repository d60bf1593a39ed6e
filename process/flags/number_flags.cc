#include "process/flags/number_flags.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
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

// The same for a floating number. CLI11 compares nan with a range, and finds it neither below nor above.
std::string CheckFinite(std::string& text) {
  char* stop = nullptr;
  const double value = std::strtod(text.c_str(), &stop);
  if (stop == text.c_str() || std::isfinite(value)) return "";
  return fmt::format("'{}' is no finite number", Printable(text, kMaxShownBytes));
}

// The type alone: get_type_name() has the names of the checks behind it.
bool HasType(const CLI::Option& option, std::string_view type) {
  return std::string_view(option.get_type_name()).starts_with(type);
}

// Of the app or of the commands that were called; nullptr if there is none.
const CLI::Option* FindOption(const CLI::App& app, const std::string& name) {
  if (const CLI::Option* const option = app.get_option_no_throw(name); option != nullptr) return option;
  for (const CLI::App* command : app.get_subcommands()) {
    if (const CLI::Option* const option = FindOption(*command, name); option != nullptr) return option;
  }
  return nullptr;
}

template <typename T>
bool IsWhole(std::string_view text) {
  const bool is_hex = text.starts_with("0x") || text.starts_with("0X");
  if (is_hex) text.remove_prefix(2);
  T value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value, is_hex ? 16 : 10);
  return error == std::errc() && stop == text.data() + text.size();
}

// What is wrong with a value that did not fit an option of this type.
template <typename Narrow, typename Wide>
std::string NoWhole(const std::string& text) {
  const std::string shown = Printable(text, kMaxShownBytes);
  if (!IsWhole<Wide>(text)) return fmt::format("'{}' is no whole number", shown);
  return fmt::format("'{}' is no whole number from {} to {}", shown, std::numeric_limits<Narrow>::min(),
                     std::numeric_limits<Narrow>::max());
}

}  // namespace

void CheckNumberFlags(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    if (HasType(*option, "UINT")) option->transform(CLI::Validator(CheckUnsigned, std::string()));
    if (HasType(*option, "FLOAT")) option->transform(CLI::Validator(CheckFinite, std::string()));
  }
  for (CLI::App* command : app.get_subcommands(nullptr)) CheckNumberFlags(*command);
}

std::string ExplainNumberError(const CLI::App& app, std::string_view what) {
  constexpr std::string_view kBegin = "Could not convert: ", kBetween = " = ";
  const size_t between = what.find(kBetween);
  if (!what.starts_with(kBegin) || between == std::string_view::npos) return std::string(what);
  const std::string name(what.substr(kBegin.size(), between - kBegin.size()));
  const CLI::Option* const option = FindOption(app, name);
  if (option == nullptr) return std::string(what);
  // Of a list, the first that does not fit.
  for (const std::string& text : option->results()) {
    if (HasType(*option, "UINT") && !IsWhole<uint32_t>(text)) {
      return fmt::format("{}: {}", name, NoWhole<uint32_t, uint64_t>(text));
    }
    if (HasType(*option, "INT") && !IsWhole<int32_t>(text)) {
      return fmt::format("{}: {}", name, NoWhole<int32_t, int64_t>(text));
    }
  }
  return std::string(what);
}

}  // namespace tributary
