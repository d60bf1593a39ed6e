#include "client/cli/options.h"

#include "CLI/CLI.hpp"
#include "base/clock.h"
#include "base/limits.h"
#include "base/status.h"
#include "base/version.h"
#include "client/eval/eval_flags.h"
#include "client/terminal/common_flags.h"
#include "client/terminal/policy_flags.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr const char* kRequestGroup = "Request";

void AddPlacementFlags(CLI::App& app, RequestOptions& request) {
  app.add_option("--window-tokens", request.window_tokens,
                 "Most recent tokens that stay on the worker (default: the coordinator's, 1024)")
      ->group(kPlacementGroup);
  AddLayoutFlags(app, request);
  app.add_flag("--all-resident", request.all_resident, "Keep the whole context on the worker")->group(kPlacementGroup);
  AddPolicyFlags(app, request.policy);
  app.add_flag("--report-attention-heads", request.report_attention_heads,
               "Say for each layer and KV head what it read and kept (sparse policies)");
  app.add_option("--top-logprobs", request.top_logprobs,
                 "Report so many of the likeliest tokens with each token (with --json; default: 0)")
      ->check(CLI::Range(0u, limits::kMaxTopLogprobs))
      ->group(kRequestGroup);
  app.add_flag("--json", request.json, "Print one JSON object instead of text and tables");
}

void AddPenaltyFlags(CLI::App& app, RequestOptions& request) {
  app.add_option("--min-p", request.min_p,
                 "Sample from tokens with at least this share of the likeliest one's probability")
      ->check(CLI::Range(0.0, 1.0))
      ->group(kRequestGroup);
  app.add_option("--presence-penalty", request.presence_penalty, "Taken from the logits of tokens that the answer has")
      ->check(CLI::Range(-2.0, 2.0))
      ->group(kRequestGroup);
  app.add_option("--frequency-penalty", request.frequency_penalty, "Taken as often as the answer has the token")
      ->check(CLI::Range(-2.0, 2.0))
      ->group(kRequestGroup);
  app.add_option("--repetition-penalty", request.repetition_penalty,
                 "Divides the logits of tokens that prompt or answer have (multiplies negative ones; default: 1)")
      ->check(CLI::Range(0.0, 100.0))
      ->group(kRequestGroup);
  app.add_option("--logit-bias", request.logit_bias,
                 "TOKEN=BIAS: added to the token's logit; may be given several times")
      ->group(kRequestGroup);
}

void AddRequestFlags(CLI::App& app, RequestOptions& request) {
  auto* prompt = app.add_option("--prompt", request.prompt, "Prompt text")->group(kRequestGroup);
  auto* file = app.add_option("--prompt-file", request.prompt_file, "File with the prompt, byte for byte; - is stdin")
                   ->group(kRequestGroup);
  auto* tokens = app.add_option("--prompt-tokens-file", request.prompt_tokens_file,
                                "File with token ids, for models without a byte vocabulary; - is stdin")
                     ->group(kRequestGroup);
  prompt->excludes(file)->excludes(tokens);
  file->excludes(tokens);
  app.add_option("--max-tokens", request.max_tokens, "Tokens to generate (default 64)")
      ->check(CLI::Range(1u, 1u << 30))
      ->group(kRequestGroup);
  app.add_option("--temperature", request.temperature, "0 (default) is greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->group(kRequestGroup);
  app.add_option("--top-k", request.top_k, "Sample from the k likeliest tokens")->group(kRequestGroup);
  app.add_option("--top-p", request.top_p, "Sample from the likeliest tokens that hold this probability")
      ->check(CLI::Range(0.0, 1.0))
      ->group(kRequestGroup);
  app.add_option("--seed", request.seed, "Seed of the sampling")->group(kRequestGroup);
  AddPenaltyFlags(app, request);
  app.add_flag("--ignore-eos", request.ignore_eos, "Do not stop at the end-of-text token")->group(kRequestGroup);
  AddPlacementFlags(app, request);
}

void AddTurnFlags(CLI::App& app, RequestOptions& request) {
  app.add_option("--request-id", request.request_id, "Name of the request (default: the coordinator makes one)")
      ->group(kRequestGroup);
  app.add_option("--keep-s", request.keep_s, "Keep the sequence for so many seconds after its answer, for --continue")
      ->check(CLI::Range(0.001, SecondsFromNs(limits::kMaxLeaseNs)))
      ->group(kRequestGroup);
  app.add_option("--keep-context-tokens", request.keep_context_tokens,
                 "With the first --keep-s: what prompts and answers of all turns may have "
                 "together; memory for it "
                 "is reserved")
      ->group(kRequestGroup);
  app.add_option("--continue", request.continue_request_id,
                 "Append the prompt, of which there may be none, to the kept sequence of this request id")
      ->group(kRequestGroup);
}

void AddScoreFlags(CLI::App& app, RequestOptions& request) {
  auto* text = app.add_option("--text-file", request.text_file, "Text to score, byte for byte; - is stdin")
                   ->group(kRequestGroup);
  app.add_option("--tokens-file", request.tokens_file,
                 "File with token ids to score, for models without a byte vocabulary; - is stdin")
      ->excludes(text)
      ->group(kRequestGroup);
  app.add_option("--prefill-tokens", request.prefill_tokens, "Tokens to prefill; the rest is fed one by one")
      ->required()
      ->check(CLI::Range(1u, 1u << 30))
      ->group(kRequestGroup);
  AddPlacementFlags(app, request);
}

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

absl::Status NoCommandError(int argc, const char* const* argv) {
  constexpr const char* kCommands = "cluster up, generate, run, score, eval, status or demo";
  if (argc > 1) return absl::InvalidArgumentError(fmt::format("unknown command '{}'; use {}", argv[1], kCommands));
  return absl::InvalidArgumentError(fmt::format("a command is needed: {}", kCommands));
}

// One of each command, filled by CLI11; only one is used.
struct ParsedCommands {
  ClusterUpCommand up;
  GenerateCommand generate;
  RunCommand run;
  ScoreCommand score;
  EvalCommand eval;
  StatusCommand status;
};

void AddCommands(CLI::App& app, ParsedCommands& parsed) {
  app.require_subcommand(1);
  CLI::App* cluster = app.add_subcommand("cluster", "Local clusters");
  cluster->require_subcommand(1);
  CLI::App* up = cluster->add_subcommand("up", "Start all processes on this host and supervise them");
  AddClusterFlags(*up, parsed.up.cluster, true);
  up->add_option("--listen", parsed.up.cluster.listen, "host:port of the coordinator (default: any free port)");
  up->add_option("--port-file", parsed.up.cluster.port_file,
                 "Write the addresses here (JSON) once the cluster is ready");

  CLI::App* generate = app.add_subcommand("generate", "Ask a running cluster");
  AddCoordinatorFlag(*generate, parsed.generate.coordinator, true);
  AddRequestFlags(*generate, parsed.generate.request);
  AddTurnFlags(*generate, parsed.generate.request);

  CLI::App* run = app.add_subcommand("run", "Start a cluster, generate, stop it");
  AddClusterFlags(*run, parsed.run.cluster, true);
  AddRequestFlags(*run, parsed.run.request);

  CLI::App* score = app.add_subcommand("score", "Log-likelihood of a text, fed through the distributed path");
  AddCoordinatorFlag(*score, parsed.score.coordinator, false);
  AddClusterFlags(*score, parsed.score.cluster, false);
  AddScoreFlags(*score, parsed.score.request);

  AddEvalFlags(*app.add_subcommand("eval", "Quality of attention policies, against dense"), parsed.eval.options);

  CLI::App* status = app.add_subcommand("status", "Members and load of a running cluster");
  AddCoordinatorFlag(*status, parsed.status.coordinator, true);
  status->add_flag("--json", parsed.status.json, "Print one JSON object");
  app.add_subcommand("demo", "Codes hidden in a text, found in other processes' KV");  // cli/demo_command.h
}

absl::StatusOr<Command> ChooseCommand(const CLI::App& app, const ParsedCommands& parsed) {
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
  if (app.got_subcommand("eval")) {
    TRIBUTARY_RETURN_IF_ERROR(CheckEval(parsed.eval.options));
    return parsed.eval;
  }
  if (app.got_subcommand("status")) return parsed.status;
  return parsed.up;
}

}  // namespace

absl::StatusOr<Command> ParseCommandLine(int argc, const char* const* argv) {
  CLI::App app("tributary: long-context LLM decoding over KV that lies in other processes' memory", "tributary");
  app.set_version_flag("--version", fmt::format("tributary {}", VersionText()));
  ParsedCommands parsed;
  AddCommands(app, parsed);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForVersion&) {
    return PrintCommand{app.version() + "\n"};
  } catch (const CLI::CallForHelp&) {
    return PrintCommand{app.help()};
  } catch (const CLI::RequiredError& error) {
    if (app.get_subcommands().empty()) return NoCommandError(argc, argv);
    return absl::InvalidArgumentError(error.what());
  } catch (const CLI::ParseError& error) {  // CLI11 reports by exceptions only
    return absl::InvalidArgumentError(error.what());
  }
  return ChooseCommand(app, parsed);
}

}  // namespace tributary
