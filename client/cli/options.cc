#include "client/cli/options.h"

#include "CLI/CLI.hpp"
#include "base/outside_text.h"
#include "base/status.h"
#include "base/version.h"
#include "client/cli/arguments.h"
#include "client/cli/documents.h"
#include "client/cli/flag_names.h"
#include "client/cli/request_flags.h"
#include "client/eval/eval_flags.h"
#include "client/terminal/common_flags.h"
#include "fmt/format.h"
#include "policy/policy_registry.h"
#include "process/flags/number_flags.h"

namespace tributary {
namespace {

constexpr const char* kCommands = "run, chat, generate, score, eval, status, cluster up, demo or serve";

absl::Status CheckRequest(const RequestOptions& request, bool is_score) {
  if (is_score && request.text_file.empty() && request.tokens_file.empty()) {
    return absl::InvalidArgumentError("there is nothing to score; give --text-file FILE or --tokens-file FILE");
  }
  if (!is_score && request.continue_request_id.empty() && request.prompt.empty() && request.prompt_file.empty() &&
      request.prompt_tokens_file.empty()) {
    return absl::InvalidArgumentError(
        "there is no prompt; give --prompt TEXT, --prompt-file FILE or --prompt-tokens-file FILE");
  }
  if (request.all_resident && request.window_tokens != 0) {
    return absl::InvalidArgumentError(
        "--all-resident keeps everything on the worker, so --window-tokens has no meaning; drop "
        "one of them");
  }
  if (request.quiet && request.json) {
    return absl::InvalidArgumentError("--quiet prints the answer alone, --json one object; drop one of them");
  }
  const bool continues = !request.continue_request_id.empty();
  if (request.keep_s > 0 && !continues && request.keep_context_tokens == 0) {
    return absl::InvalidArgumentError(
        "--keep-s needs --keep-context-tokens N: how many tokens the prompts and answers of all "
        "turns may have, so "
        "that memory for them can be reserved");
  }
  if (request.keep_s == 0 && request.keep_context_tokens != 0) {
    return absl::InvalidArgumentError(
        "--keep-context-tokens has no meaning without --keep-s SECONDS; add it or drop this");
  }
  if (continues && !request.request_id.empty()) {
    return absl::InvalidArgumentError("a continued sequence keeps its name; drop --request-id or --continue");
  }
  // The sequence has the policy that goes with these; the coordinator checks.
  if (continues && request.policy.name.empty()) return absl::OkStatus();
  // What the cluster decides (block size, geometry) is checked there.
  return ResolvePolicy(request.policy, {.block_tokens = request.block_tokens}).status();
}

// One of each command, filled by CLI11; only one is used.
struct ParsedCommands {
  ClusterUpCommand up;
  GenerateCommand generate;
  RunCommand run;
  ScoreCommand score;
  ChatCommand chat;
  EvalCommand eval;
  StatusCommand status;
  std::vector<std::string> help_of;
};

CLI::App* AddCommand(CLI::App& app, const char* name, const char* description) {
  CLI::App* const command = app.add_subcommand(name, description);
  AddConfigFlag(*command);
  return command;
}

void AddClusterCommands(CLI::App& app, ParsedCommands& parsed) {
  CLI::App* cluster = app.add_subcommand("cluster", "Local clusters");
  cluster->require_subcommand(1);
  CLI::App* up = AddCommand(*cluster, "up", "Start all processes on this host and supervise them");
  AddClusterFlags(*up, parsed.up.cluster, true);
  up->add_option("--listen", parsed.up.cluster.listen, "host:port of the coordinator (default: any free port)");
  up->add_option("--port-file", parsed.up.cluster.port_file,
                 "Write the addresses here (JSON) once the cluster is ready");

  CLI::App* status = AddCommand(app, "status", "Members and load of a running cluster");
  AddCoordinatorFlags(*status, parsed.status.coordinator, parsed.status.tls, true);
  status->add_flag("--json", parsed.status.json, "Print one JSON object");
  status->add_option("--watch", parsed.status.watch_s, "Print it again every so many seconds (2) until Ctrl-C")
      ->expected(0, 1)
      ->default_str("2")
      ->check(CLI::Range(0.1, 86'400.0));
}

void AddCommands(CLI::App& app, ParsedCommands& parsed) {
  app.require_subcommand(1);
  CLI::App* run = AddCommand(app, "run", "Start a cluster, generate, stop it");
  AddClusterFlags(*run, parsed.run.cluster, true);
  AddRequestFlags(*run, parsed.run.request);

  CLI::App* chat = AddCommand(app, "chat", "Talk to a model; the sequence stays between the turns");
  AddCoordinatorFlags(*chat, parsed.chat.coordinator, parsed.chat.tls, false);
  AddClusterFlags(*chat, parsed.chat.cluster, false);
  AddChatFlags(*chat, parsed.chat.request, parsed.chat.system);

  CLI::App* generate = AddCommand(app, "generate", "Ask a running cluster");
  AddCoordinatorFlags(*generate, parsed.generate.coordinator, parsed.generate.tls, true);
  generate->add_option("--model", parsed.generate.model_dir,
                       "The model's folder, whose tokenizer.json text is encoded by (as --tokenizer)");
  AddRequestFlags(*generate, parsed.generate.request);
  AddTurnFlags(*generate, parsed.generate.request);

  CLI::App* score = AddCommand(app, "score", "Log-likelihood of a text, fed through the distributed path");
  AddCoordinatorFlags(*score, parsed.score.coordinator, parsed.score.tls, false);
  AddClusterFlags(*score, parsed.score.cluster, false);
  AddScoreFlags(*score, parsed.score.request);

  AddEvalFlags(*AddCommand(app, "eval", "Quality of attention policies, against dense"), parsed.eval.options);
  AddClusterCommands(app, parsed);

  app.add_subcommand("version", "Print the version");
  app.add_subcommand("help", "Print the flags of a command, or the commands")
      ->add_option("COMMAND", parsed.help_of, "The command's words, e.g. cluster up");
  CLI::App* completion = app.add_subcommand("completion", "Print what a shell needs to complete commands and flags");
  completion->require_subcommand(1);
  completion->add_subcommand("bash", "For Bash: source <(tributary completion bash)");
  app.add_subcommand("man", "Print the manual page");
  app.add_subcommand("demo", "Codes hidden in a text, found in other processes' KV");              // cli/demo_command.h
  app.add_subcommand("serve", "Answer OpenAI's clients (tributary-serve of the Python package)");  // serve_command.h
}

absl::Status CheckChat(const ChatCommand& chat) {
  if (!chat.coordinator.empty()) return absl::OkStatus();  // --model is then where the tokenizer lies
  if (chat.cluster.model_dir.empty()) return CheckModelOrCoordinator(chat.cluster, chat.coordinator);
  return ResolvePolicy(chat.request.policy, {.block_tokens = chat.request.block_tokens}).status();
}

absl::StatusOr<Command> HelpOf(CLI::App& app, const std::vector<std::string>& words) {
  const CLI::App* command = &app;
  std::string parents;
  for (const std::string& word : words) {
    const CLI::App* const next = FindCommand(*command, word);
    if (next == nullptr) {
      return absl::InvalidArgumentError(
          fmt::format("there is no command '{}'; use {}", Printable(word, kMaxShownBytes), kCommands));
    }
    parents += (parents.empty() ? "" : " ") + command->get_name();
    command = next;
  }
  // App::help() would print that of the command that was called, which is this one.
  if (command == &app) {
    return PrintCommand{app.get_formatter()->make_help(&app, app.get_name(), CLI::AppFormatMode::Normal)};
  }
  return PrintCommand{command->help(parents)};
}

absl::StatusOr<Command> ChooseCommand(CLI::App& app, const ParsedCommands& parsed) {
  if (app.got_subcommand("generate")) {
    TRIBUTARY_RETURN_IF_ERROR(CheckRequest(parsed.generate.request, false));
    return parsed.generate;
  }
  if (app.got_subcommand("run")) {
    TRIBUTARY_RETURN_IF_ERROR(CheckRequest(parsed.run.request, false));
    return parsed.run;
  }
  if (app.got_subcommand("score")) {
    TRIBUTARY_RETURN_IF_ERROR(CheckRequest(parsed.score.request, true));
    TRIBUTARY_RETURN_IF_ERROR(CheckModelOrCoordinator(parsed.score.cluster, parsed.score.coordinator));
    return parsed.score;
  }
  if (app.got_subcommand("chat")) {
    TRIBUTARY_RETURN_IF_ERROR(CheckChat(parsed.chat));
    return parsed.chat;
  }
  if (app.got_subcommand("eval")) {
    TRIBUTARY_RETURN_IF_ERROR(CheckEval(parsed.eval.options));
    return parsed.eval;
  }
  if (app.got_subcommand("status")) return parsed.status;
  if (app.got_subcommand("version")) return PrintCommand{app.version() + "\n"};
  if (app.got_subcommand("help")) return HelpOf(app, parsed.help_of);
  if (app.got_subcommand("completion")) return PrintCommand{BashCompletion(app)};
  if (app.got_subcommand("man")) return PrintCommand{ManPage(app)};
  return parsed.up;
}

absl::Status NoCommandError(int argc, const char* const* argv) {
  if (argc > 1) {
    return absl::InvalidArgumentError(
        fmt::format("unknown command '{}'; use {}", Printable(argv[1], kMaxShownBytes), kCommands));
  }
  return absl::InvalidArgumentError(fmt::format("a command is needed: {}", kCommands));
}

}  // namespace

absl::StatusOr<Command> ParseCommandLine(int argc, const char* const* argv) {
  CLI::App app("tributary: long-context LLM decoding over KV that lies in other processes' memory", "tributary");
  app.set_version_flag("--version", fmt::format("tributary {}", VersionText()));
  ParsedCommands parsed;
  AddCommands(app, parsed);
  CheckNumberFlags(app);
  TRIBUTARY_ASSIGN_OR_RETURN(Arguments arguments, CompleteArguments(app, argc, argv));
  try {
    app.parse(std::vector<std::string>(arguments.words.rbegin(), arguments.words.rend()));  // as CLI11 wants them
  } catch (const CLI::CallForVersion&) {
    return PrintCommand{app.version() + "\n"};
  } catch (const CLI::CallForHelp&) {
    return PrintCommand{app.help()};
  } catch (const CLI::RequiredError& error) {
    if (app.get_subcommands().empty()) return NoCommandError(argc, argv);
    // CLI11 looks for what is required first, but a flag that was mistyped is what the user has to see.
    const std::vector<std::string> unknown = app.remaining(true);
    return ExplainParseError(app, arguments, unknown.empty() ? error.what() : CLI::ExtrasError(unknown).what());
  } catch (const CLI::ParseError& error) {  // CLI11 reports by exceptions only
    return ExplainParseError(app, arguments, ExplainNumberError(app, error.what()));
  }
  absl::StatusOr<Command> command = ChooseCommand(app, parsed);
  if (!command.ok()) return NameFlags(command.status());
  return command;
}

}  // namespace tributary
