#include "client/eval/eval_flags.h"

#include "CLI/CLI.hpp"
#include "client/eval/task.h"
#include "client/terminal/common_flags.h"
#include "client/terminal/policy_flags.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr const char* kGridGroup = "Grid (comma-separated lists; every combination is run)";
constexpr const char* kPerplexityGroup = "Perplexity and drift";
constexpr const char* kTaskGroup = "Tasks";

void AddGridFlags(CLI::App& app, EvalOptions& options) {
  app.add_option("--policy", options.policies, "Attention policies (default: dense)")
      ->delimiter(',')
      ->group(kGridGroup);
  app.add_option("--window-tokens", options.window_tokens, "Most recent tokens that stay on the worker (default: 1024)")
      ->delimiter(',')
      ->group(kGridGroup);
  AddPolicyGridFlags(app, kGridGroup, options.parameters);
}

void AddTaskFlags(CLI::App& app, EvalOptions& options) {
  app.add_option("--tasks", options.tasks, fmt::format("{} (default: the first three)", TaskNames()))
      ->delimiter(',')
      ->group(kTaskGroup);
  app.add_option("--lengths", options.lengths, "Tokens per prompt (default: none, no tasks)")
      ->delimiter(',')
      ->check(CLI::Range(1u, 1u << 30))
      ->group(kTaskGroup);
  app.add_option("--depths", options.depths,
                 "Where what is asked for lies, 0 to 1 (default: 0.1,0.3,0.5,0.7,0.9); not multi-query, extraction")
      ->delimiter(',')
      ->group(kTaskGroup);
  app.add_option("--needles", options.needles, "Needles per prompt of the tasks that have them (default: 0)")
      ->check(CLI::Range(0u, 4096u))
      ->group(kTaskGroup);
  app.add_option("--queries", options.queries, "Questions per multi-query prompt (default: 4)")
      ->check(CLI::Range(1u, 4096u))
      ->group(kTaskGroup);
  app.add_option("--fields", options.fields, "Fields of an extraction's record (default: 6)")
      ->check(CLI::Range(1u, 40u))
      ->group(kTaskGroup);
  app.add_option("--questions", options.questions, "Prompts per task, length and depth (default: 1)")
      ->check(CLI::Range(1u, 100'000u))
      ->group(kTaskGroup);
  app.add_flag("--decode-question", options.decode_question,
               "Feed the question through the policy, not with the prefill")
      ->group(kTaskGroup);
  app.add_flag("--turns", options.turns, "multi-query: keep the sequence and append each question to it, as a turn")
      ->group(kTaskGroup);
  app.add_option("--chat-template", options.chat_template,
                 "auto (default): prompts have the chat template of the tokenizer's folder, if there is one; none")
      ->check(CLI::IsMember({"auto", "none"}))
      ->group(kTaskGroup);
  app.add_option("--seed", options.seed, "Of names, places and texts (default: 1)")->group(kTaskGroup);
}

void AddTextFlags(CLI::App& app, EvalOptions& options) {
  auto* files = app.add_option("--text-file", options.text_files,
                               "Texts, separated by commas: perplexity of each, drift of the first, tasks in turn")
                    ->delimiter(',');
  app.add_option("--text-tokens-file", options.text_tokens_files,
                 "Token ids instead, for which no tokenizer is needed: perplexity and drift")
      ->delimiter(',')
      ->excludes(files);
  app.add_option("--tokenizer", options.tokenizer_dir,
                 "Folder with tokenizer.json (default: the model's, if it has one; else tokens are bytes)");
  app.add_option(
      "--python", options.python,
      "Python with the packages tokenizers and jinja2, which then turns text into tokens (default: that of ./dev "
      "setup python, else python3)");
}

}  // namespace

void AddEvalFlags(CLI::App& app, EvalOptions& options) {
  AddCoordinatorFlags(app, options.coordinator, options.tls, false);
  AddClusterFlags(app, options.cluster, false);
  AddTextFlags(app, options);
  app.add_option("--prefill-tokens", options.prefill_tokens,
                 "Tokens to prefill before the decoded ones (default: 4096)")
      ->check(CLI::Range(1u, 1u << 30))
      ->group(kPerplexityGroup);
  app.add_option("--decode-tokens", options.decode_tokens,
                 "Tokens to decode one by one and to score (default: 0, no perplexity)")
      ->check(CLI::Range(0u, 1u << 30))
      ->group(kPerplexityGroup);
  app.add_option("--top-logprobs", options.top_logprobs,
                 "Tokens per position whose probabilities are compared with dense's (default: all "
                 "of a byte vocabulary, else 64; 0: none)")
      ->group(kPerplexityGroup);
  app.add_option("--drift-tokens", options.drift_tokens,
                 "Tokens that dense generates behind the first text's prefill, and that are fed through every setting; "
                 "capped by the model's context (default: 0, none)")
      ->check(CLI::Range(0u, 1u << 30))
      ->group(kPerplexityGroup);
  AddTaskFlags(app, options);
  AddGridFlags(app, options);
  AddLayoutFlags(app, options.layout);
  app.add_option("--retries", options.retries,
                 "How often a failed request is sent again, to a new local cluster if it is lost (default: 2)")
      ->check(CLI::Range(0u, 100u));
  app.add_option("--json", options.json_file,
                 "Write the results here (client/eval/README.md); the same call goes on with a run that did not end");
  app.add_flag("--restart", options.restart, "Begin anew instead, with --json");
  app.add_option("--csv", options.csv_file, "Write one row per setting here");
}

}  // namespace tributary
