#include "client/cli/request_flags.h"

#include "CLI/CLI.hpp"
#include "base/clock.h"
#include "base/limits.h"
#include "client/terminal/common_flags.h"
#include "client/terminal/policy_flags.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr const char* kRequestGroup = "Request";
constexpr const char* kTextGroup = "Text";

void AddWindowFlags(CLI::App& app, RequestOptions& request) {
  app.add_option("--window-tokens", request.window_tokens,
                 "Most recent tokens that stay on the worker (default: the coordinator's, 1024)")
      ->group(kPlacementGroup);
  AddLayoutFlags(app, request);
  app.add_flag("--all-resident", request.all_resident, "Keep the whole context on the worker")->group(kPlacementGroup);
  AddPolicyFlags(app, request.policy);
}

void AddPlacementFlags(CLI::App& app, RequestOptions& request) {
  AddWindowFlags(app, request);
  app.add_flag("--report-attention-heads", request.report_attention_heads,
               "Say for each layer and KV head what it read and kept (sparse policies)");
  app.add_option("--max-stall-s", request.max_stall_s,
                 "Wait so long while a node or worker that holds its KV is silent (default: as long as the cluster "
                 "allows)")
      ->check(CLI::Range(0.0, 3600.0))
      ->group(kRequestGroup);
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

void AddSamplingFlags(CLI::App& app, RequestOptions& request) {
  app.add_option("--max-tokens", request.max_tokens,
                 fmt::format("Most tokens of an answer (default {})", request.max_tokens))
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
}

void AddTextFlags(CLI::App& app, RequestOptions& request) {
  app.add_option("--tokenizer", request.tokenizer_dir,
                 "Folder with tokenizer.json (default: the model's, if it has one; else tokens are bytes)")
      ->group(kTextGroup);
  app.add_option("--python", request.python,
                 "Python with the packages tokenizers and jinja2, which turns text into tokens (default: that of "
                 "./dev setup python, else python3)")
      ->group(kTextGroup);
  app.add_flag("--quiet", request.quiet, "Standard output has the answer alone; the rest goes to standard error")
      ->group(kTextGroup);
}

void AddStopFlag(CLI::App& app, RequestOptions& request) {
  app.add_option("--stop", request.stops,
                 "A text that ends the answer and is no part of it; may be given several times")
      ->allow_extra_args(false)  // and a text in brackets stays one
      ->check([](const std::string& stop) { return std::string(stop.empty() ? "a stop string is empty" : ""); })
      ->group(kTextGroup);
}

}  // namespace

void AddRequestFlags(CLI::App& app, RequestOptions& request) {
  auto* prompt = app.add_option("--prompt", request.prompt, "Prompt text")->group(kRequestGroup);
  auto* file = app.add_option("--prompt-file", request.prompt_file, "File with the prompt, byte for byte; - is stdin")
                   ->group(kRequestGroup);
  auto* tokens =
      app.add_option("--prompt-tokens-file", request.prompt_tokens_file,
                     "File with token ids instead, between blanks or as JSON, also as --json prints it; - is "
                     "stdin")
          ->group(kRequestGroup);
  prompt->excludes(file)->excludes(tokens);
  file->excludes(tokens);
  AddSamplingFlags(app, request);
  AddTextFlags(app, request);
  AddStopFlag(app, request);
  AddPlacementFlags(app, request);
}

void AddChatFlags(CLI::App& app, RequestOptions& request, std::string& system) {
  app.add_option("--system", system, "What the chat begins with, as the system's words")->group(kTextGroup);
  app.add_option("--keep-s", request.keep_s,
                 fmt::format("How long the sequence waits for the next words (default {})", request.keep_s))
      ->check(CLI::Range(1.0, SecondsFromNs(limits::kMaxLeaseNs)))
      ->group(kRequestGroup);
  app.add_option("--keep-context-tokens", request.keep_context_tokens,
                 fmt::format("What the whole chat may have; memory for it is reserved (default {})",
                             request.keep_context_tokens))
      ->group(kRequestGroup);
  AddSamplingFlags(app, request);
  AddTextFlags(app, request);
  AddStopFlag(app, request);
  AddWindowFlags(app, request);
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
                 "File with token ids to score instead, between blanks or as JSON; - is stdin")
      ->excludes(text)
      ->group(kRequestGroup);
  app.add_option("--prefill-tokens", request.prefill_tokens, "Tokens to prefill; the rest is fed one by one")
      ->required()
      ->check(CLI::Range(1u, 1u << 30))
      ->group(kRequestGroup);
  AddTextFlags(app, request);
  AddPlacementFlags(app, request);
}

}  // namespace tributary
