#include "client/cli/documents.h"

#include <functional>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/version.h"
#include "fmt/format.h"

namespace tributary {
namespace {

using Visit = std::function<void(const CLI::App& command, const std::string& path)>;

std::vector<const CLI::App*> CommandsOf(const CLI::App& app) {
  return app.get_subcommands(std::function<bool(const CLI::App*)>());
}

// Every command in the order of --help; `path` is "cluster up".
void ForEachCommand(const CLI::App& app, const std::string& path, const Visit& visit) {
  for (const CLI::App* command : CommandsOf(app)) {
    const std::string name = path.empty() ? command->get_name() : path + " " + command->get_name();
    visit(*command, name);
    ForEachCommand(*command, name, visit);
  }
}

std::string LongName(const CLI::Option& option) {
  return option.get_lnames().empty() ? "" : "--" + option.get_lnames().front();
}

// "bf16 f16 f32" of a flag that takes one of them, from CLI11's "TEXT:{bf16,f16,f32}"; else "".
std::string WordsOf(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const size_t begin = type.find(":{");
  if (begin == std::string::npos || type.back() != '}') return "";
  std::string words = type.substr(begin + 2, type.size() - begin - 3);
  for (char& c : words) c = c == ',' ? ' ' : c;
  return words;
}

// Text of a manual page: no line begins with a command of roff, and hyphens can be copied.
std::string Roff(std::string_view text) {
  std::string roff;
  for (const char c : text) {
    if (c == '\\') {
      roff += "\\e";
    } else if (c == '-') {
      roff += "\\-";
    } else {
      roff += c;
    }
  }
  if (roff.starts_with('.') || roff.starts_with('\'')) roff.insert(0, "\\&");
  return roff;
}

void AppendOptions(const CLI::App& command, std::string& page) {
  for (const std::string& group : command.get_groups()) {
    page += fmt::format(".SS {}\n", Roff(group));
    for (const CLI::Option* option : command.get_options()) {
      const std::string name = LongName(*option);
      if (option->get_group() != group || name.empty()) continue;
      const std::string type = option->get_items_expected_max() == 0 ? "" : option->get_type_name();
      page += fmt::format(".TP\n.B {}{}\n{}\n", Roff(name), type.empty() ? "" : fmt::format(" \\fR{}", Roff(type)),
                          Roff(option->get_description()));
    }
  }
}

}  // namespace

std::string BashCompletion(const CLI::App& app) {
  std::string flags, words, commands;
  const auto add_command = [&](const CLI::App& command, const std::string& path) {
    std::string known;
    for (const CLI::App* inner : CommandsOf(command)) known += inner->get_name() + " ";
    for (const CLI::Option* option : command.get_options()) {
      const std::string name = LongName(*option);
      if (name.empty()) continue;
      known += name + " ";
      if (const std::string taken = WordsOf(*option); !taken.empty()) {
        words +=
            fmt::format("    '{} {}') COMPREPLY=($(compgen -W '{}' -- \"$word\")); return ;;\n", path, name, taken);
      }
    }
    flags += fmt::format("    '{}') COMPREPLY=($(compgen -W '{}' -- \"$word\")) ;;\n", path, known);
  };
  for (const CLI::App* command : CommandsOf(app)) commands += command->get_name() + " ";
  ForEachCommand(app, "", add_command);
  return fmt::format(R"(# Completion of tributary for Bash; made by 'tributary completion bash'.
_tributary() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} path= i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${{COMP_WORDS[i]}} in -*) break ;; *) path+=${{path:+ }}${{COMP_WORDS[i]}} ;; esac
  done
  if [ -z "$path" ]; then
    COMPREPLY=($(compgen -W '{}--help --version' -- "$word"))
    return
  fi
  case "$path $before" in
{}  esac
  # Behind a flag, which may take a file, names of files are completed.
  case "$before,$word" in --*,--*) ;; --*) return ;; esac
  case $path in
{}  esac
}}
complete -o default -F _tributary tributary
)",
                     commands, words, flags);
}

std::string ManPage(const CLI::App& app) {
  std::string page = fmt::format(
      ".TH TRIBUTARY 1 \"\" \"tributary {}\" \"User Commands\"\n.SH NAME\ntributary \\- LLM decoding over KV that lies "
      "in "
      "other processes' memory\n.SH SYNOPSIS\n.B tributary\n.I COMMAND\n[\\fIflags\\fR]\n.SH DESCRIPTION\nEvery flag "
      "can "
      "also be a variable of the environment (TRIBUTARY_WINDOW_TOKENS for \\-\\-window\\-tokens) or a line of the file "
      "that \\-\\-config names (window\\-tokens = 128); the command line comes first, the file last.\n",
      Roff(VersionText()));
  ForEachCommand(app, "", [&page](const CLI::App& command, const std::string& path) {
    page += fmt::format(".SH {}\n{}.\n", Roff("tributary " + path), Roff(command.get_description()));
    AppendOptions(command, page);
  });
  page +=
      ".SH EXIT STATUS\n0: done. 1: failed; a line on standard error says why, and with \\-\\-json one object on "
      "standard "
      "output. 2: the flags cannot be used. 130: interrupted. 141: nobody reads standard output any more.\n";
  return page;
}

}  // namespace tributary
