#include "client/eval/eval_flags.h"

#include "CLI/CLI.hpp"
#include "client/terminal/common_flags.h"
#include "client/terminal/policy_flags.h"

namespace tributary {
namespace {

constexpr const char* kGridGroup = "Grid (comma-separated lists; every combination is run)";
constexpr const char* kPerplexityGroup = "Perplexity";
constexpr const char* kNeedleGroup = "Needles";

void AddGridFlags(CLI::App& app, EvalOptions& options) {
  app.add_option("--policy", options.policies, "Attention policies (default: dense)")
      ->delimiter(',')
      ->group(kGridGroup);
  app.add_option("--window-tokens", options.window_tokens, "Most recent tokens that stay on the worker (default: 1024)")
      ->delimiter(',')
      ->group(kGridGroup);
  AddPolicyGridFlags(app, kGridGroup, options.parameters);
}

void AddNeedleFlags(CLI::App& app, EvalOptions& options) {
  app.add_option("--needles", options.needles, "Needles per prompt (default: 0, none)")
      ->check(CLI::Range(0u, 4096u))
      ->group(kNeedleGroup);
  app.add_option("--lengths", options.lengths, "Tokens per prompt")
      ->delimiter(',')
      ->check(CLI::Range(1u, 1u << 30))
      ->group(kNeedleGroup);
  app.add_option("--depths", options.depths,
                 "Where the needle lies, 0 to 1 (default: 0.1,0.3,0.5,0.7,0.9); not multi-query")
      ->delimiter(',')
      ->group(kNeedleGroup);
  app.add_option("--needle-kinds", options.needle_kinds, "single, multi-key, multi-query (default: all)")
      ->delimiter(',')
      ->group(kNeedleGroup);
  app.add_option("--queries", options.queries, "Questions per multi-query prompt (default: 4)")
      ->check(CLI::Range(1u, 4096u))
      ->group(kNeedleGroup);
  app.add_option("--questions", options.questions, "Prompts per kind, length and depth (default: 1)")
      ->check(CLI::Range(1u, 100'000u))
      ->group(kNeedleGroup);
  app.add_flag("--decode-question", options.decode_question,
               "Feed the question through the policy, not with the prefill")
      ->group(kNeedleGroup);
  app.add_flag("--turns", options.turns, "multi-query: keep the sequence and append each question to it, as a turn")
      ->group(kNeedleGroup);
  app.add_option("--seed", options.seed, "Of needles, places and texts (default: 1)")->group(kNeedleGroup);
}

}  // namespace

void AddEvalFlags(CLI::App& app, EvalOptions& options) {
  AddCoordinatorFlag(app, options.coordinator, false);
  AddClusterFlags(app, options.cluster, false);
  auto* file =
      app.add_option("--text-file", options.text_file, "Text for perplexity and haystack for needles, byte for byte");
  app.add_option("--text-tokens-file", options.text_tokens_file,
                 "Token ids for perplexity, for models without a byte vocabulary")
      ->excludes(file);
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
  AddNeedleFlags(app, options);
  AddGridFlags(app, options);
  AddLayoutFlags(app, options.layout);
  app.add_option("--json", options.json_file, "Write the results here (client/eval/README.md)");
  app.add_option("--csv", options.csv_file, "Write one row per setting here");
}

}  // namespace tributary
