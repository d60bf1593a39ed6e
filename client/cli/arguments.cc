#include "client/cli/arguments.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <optional>
#include <set>

#include "CLI/CLI.hpp"
#include "base/outside_text.h"
#include "base/status.h"
#include "client/cli/flag_names.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr std::string_view kConfig = "--config";

// The command that the first words name, and its name; nullptr if they name none.
const CLI::App* CommandOf(const CLI::App& app, const std::vector<std::string>& words, std::string* name) {
  const CLI::App* command = &app;
  for (const std::string& word : words) {
    const CLI::App* const next = FindCommand(*command, word);
    if (next == nullptr) break;
    command = next;
    *name += (name->empty() ? "" : " ") + word;
  }
  return command == &app ? nullptr : command;
}

// Whether the words have "--flag" or "--flag=...".
bool HasFlag(const std::vector<std::string>& words, const std::string& flag) {
  return std::any_of(words.begin(), words.end(), [&flag](const std::string& word) {
    return word == flag || (word.starts_with(flag) && word.size() > flag.size() && word[flag.size()] == '=');
  });
}

std::vector<std::string> FlagsOf(const CLI::App& command) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  return flags;
}

// Of every command.
std::vector<std::string> AllFlags(const CLI::App& app) {
  std::vector<std::string> flags = FlagsOf(app);
  for (const CLI::App* command : app.get_subcommands(std::function<bool(const CLI::App*)>())) {
    for (std::string& flag : AllFlags(*command)) flags.push_back(std::move(flag));
  }
  return flags;
}

// The value of --config among the words.
std::optional<std::string> ConfigFile(const std::vector<std::string>& words) {
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == kConfig && i + 1 < words.size()) return words[i + 1];
    if (words[i].starts_with(std::string(kConfig) + "=")) return words[i].substr(kConfig.size() + 1);
  }
  return std::nullopt;
}

std::string VariableOf(const std::string& name) {
  std::string variable = "TRIBUTARY_" + name;
  for (char& c : variable) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return variable;
}

absl::StatusOr<std::vector<CLI::ConfigItem>> ReadConfig(const CLI::App& app, const std::string& path) {
  std::vector<CLI::ConfigItem> items;
  try {
    items = CLI::ConfigBase().from_file(path);
  } catch (const CLI::Error& error) {
    return absl::InvalidArgumentError(fmt::format("--config '{}': {}", Printable(path), Printable(error.what())));
  }
  const std::vector<std::string> known = AllFlags(app);
  std::erase_if(items, [](const CLI::ConfigItem& item) { return item.name == "++" || item.name == "--"; });
  for (const CLI::ConfigItem& item : items) {
    if (std::find(known.begin(), known.end(), "--" + item.name) != known.end()) continue;
    const std::string nearest = Nearest("--" + item.name, known);
    return absl::InvalidArgumentError(
        fmt::format("--config '{}' has '{}', which is no flag of any command{}", Printable(path),
                    Printable(item.name, kMaxShownBytes),
                    nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest.substr(2))));
  }
  return items;
}

absl::Status AddValues(const CLI::Option& option, const std::string& flag, const std::vector<std::string>& values,
                       const std::string& source, Arguments& arguments) {
  arguments.sources[flag] = source;
  if (option.get_items_expected_max() > 0) {
    for (const std::string& value : values) arguments.words.push_back(fmt::format("{}={}", flag, value));
    return absl::OkStatus();
  }
  const std::string value = values.empty() ? "" : values.front();
  const bool is_on = value == "true" || value == "1" || value == "on" || value == "yes";
  const bool is_off = value == "false" || value == "0" || value == "off" || value == "no" || value.empty();
  if (is_on) arguments.words.push_back(flag);
  if (is_on || is_off) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{} is a switch, and '{}' is neither true nor false (from {})", flag,
                                                Printable(value, kMaxShownBytes), source));
}

}  // namespace

const CLI::App* FindCommand(const CLI::App& app, const std::string& name) {
  const auto found = app.get_subcommands([&name](const CLI::App* command) { return command->get_name() == name; });
  return found.empty() ? nullptr : found.front();
}

void AddConfigFlag(CLI::App& command) {
  static std::string ignored;  // read before CLI11 parses
  command.add_option(
      std::string(kConfig), ignored,
      "File with more flags, \"window-tokens = 128\" (TOML or INI); variables TRIBUTARY_WINDOW_TOKENS of "
      "the environment come before it, the command line before both");
}

absl::StatusOr<Arguments> CompleteArguments(const CLI::App& app, int argc, const char* const* argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) arguments.words.emplace_back(argv[i]);
  std::string name;
  const CLI::App* const command = CommandOf(app, arguments.words, &name);
  const std::vector<std::string> given = arguments.words;
  if (command == nullptr || command->get_option_no_throw(std::string(kConfig)) == nullptr) return arguments;
  if (HasFlag(given, "--help") || std::find(given.begin(), given.end(), "-h") != given.end()) return arguments;
  std::vector<CLI::ConfigItem> items;
  const std::optional<std::string> file = ConfigFile(given);
  if (file.has_value()) {
    TRIBUTARY_ASSIGN_OR_RETURN(items, ReadConfig(app, *file));
  }
  for (const CLI::Option* option : command->get_options()) {
    if (option->get_lnames().empty()) continue;
    const std::string& long_name = option->get_lnames().front();
    const std::string flag = "--" + long_name;
    const std::set<CLI::Option*> excludes = option->get_excludes();
    const bool is_excluded = std::any_of(excludes.begin(), excludes.end(), [&given](const CLI::Option* other) {
      return HasFlag(given, other->get_name());
    });
    if (flag == kConfig || flag == "--help" || HasFlag(given, flag) || is_excluded) continue;
    const std::string variable = VariableOf(long_name);
    if (const char* const value = std::getenv(variable.c_str()); value != nullptr) {
      TRIBUTARY_RETURN_IF_ERROR(
          AddValues(*option, flag, {value}, fmt::format("the environment's {}", variable), arguments));
      continue;
    }
    // What stands behind [command] replaces what stands above for all.
    const auto is_of_command = [&](const CLI::ConfigItem& item) {
      return item.name == long_name && !item.parents.empty() && CLI::detail::join(item.parents, " ") == name;
    };
    const bool is_replaced = std::any_of(items.begin(), items.end(), is_of_command);
    for (const CLI::ConfigItem& item : items) {
      const bool is_for_all = item.name == long_name && item.parents.empty();
      if (!is_of_command(item) && (!is_for_all || is_replaced)) continue;
      TRIBUTARY_RETURN_IF_ERROR(
          AddValues(*option, flag, item.inputs, fmt::format("the file '{}'", Printable(*file)), arguments));
    }
  }
  return arguments;
}

absl::Status ExplainParseError(const CLI::App& app, const Arguments& arguments, std::string_view what) {
  constexpr std::string_view kNotExpected[] = {"The following argument was not expected: ",
                                               "The following arguments were not expected: "};
  std::string name;
  const CLI::App* const command = CommandOf(app, arguments.words, &name);
  for (const std::string_view prefix : kNotExpected) {
    if (!what.starts_with(prefix) || command == nullptr) continue;
    // CLI11 names all that it could not use; the first of them is the cause, as the user typed it.
    const std::string rest = fmt::format(" {} ", what.substr(prefix.size()));
    const auto word = std::find_if(arguments.words.begin(), arguments.words.end(), [&rest](const std::string& typed) {
      return rest.find(fmt::format(" {} ", typed)) != std::string::npos;
    });
    const std::string typed = word == arguments.words.end() ? rest : *word;
    const std::vector<std::string> flags = FlagsOf(*command);
    const std::string shown = Printable(typed, kMaxShownBytes);
    if (typed.starts_with("-")) {
      const std::string nearest = Nearest(typed.substr(0, typed.find('=')), flags);
      return absl::InvalidArgumentError(fmt::format("'{}' is no flag of 'tributary {}'{}", shown, name,
                                                    nearest.empty() ? "" : fmt::format("; did you mean {}?", nearest)));
    }
    for (const char* text_flag : {"--prompt", "--text-file"}) {
      if (std::find(flags.begin(), flags.end(), text_flag) == flags.end()) continue;
      return absl::InvalidArgumentError(
          fmt::format("'{}' stands behind no flag; did you mean {} '{}'?", shown, text_flag, shown));
    }
    return absl::InvalidArgumentError(fmt::format("'{}' is not expected by 'tributary {}'", shown, name));
  }
  std::string message = Printable(what);
  for (const auto& [flag, source] : arguments.sources) {
    if (what.starts_with(flag + ":") || what.find(flag + " ") != std::string_view::npos) {
      message += fmt::format(" ({} is from {})", flag, source);
    }
  }
  return absl::InvalidArgumentError(message);
}

}  // namespace tributary
