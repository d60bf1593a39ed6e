#include "client/eval/eval_plan.h"

#include <algorithm>

#include "base/clock.h"
#include "base/status.h"
#include "client/api/request_builder.h"
#include "client/eval/eval_random.h"
#include "fmt/format.h"
#include "model/byte_text.h"
#include "proto/convert_request.h"

namespace tributary {
namespace {

// A token decoded alone costs about as much as so many of a short prefill; attention makes the tokens of a long prefill
// dearer. Measured with the probe model on two cores; the ETA corrects itself by what jobs really take.
constexpr double kDecodeWeight = 290;
constexpr double kPrefillGrowthTokens = 400;
// For how long a sequence waits for its next question.
constexpr int64_t kTurnLeaseNs = 120 * kNsPerS;

absl::StatusOr<std::vector<NeedleSpec>> NeedleSpecs(const EvalOptions& options) {
  std::vector<NeedleSpec> specs;
  for (const std::string& kind_name : options.needle_kinds) {
    TRIBUTARY_ASSIGN_OR_RETURN(const NeedleKind kind, ParseNeedleKind(kind_name));
    const bool has_depth = kind != NeedleKind::kMultiQuery;
    const std::vector<double> depths = has_depth ? options.depths : std::vector<double>{0};
    for (const uint32_t length : options.lengths) {
      for (size_t d = 0; d < depths.size(); ++d) {
        for (uint32_t repeat = 0; repeat < options.questions; ++repeat) {
          EvalRandom random(options.seed, {static_cast<uint64_t>(kind), length, d, repeat});
          specs.push_back({.kind = kind,
                           .length_tokens = length,
                           .depth = depths[d],
                           .needles = kind == NeedleKind::kSingle ? 1 : options.needles,
                           .queries = std::min(options.queries, options.needles),
                           .seed = random.Next()});
        }
      }
    }
  }
  return specs;
}

absl::StatusOr<std::vector<uint32_t>> ScoredTokens(const EvalOptions& options, const std::string& text) {
  std::vector<uint32_t> tokens;
  if (options.text_tokens_file.empty()) {
    tokens = TokensFromBytes(text);
  } else {
    TRIBUTARY_ASSIGN_OR_RETURN(tokens, ParseTokenIds(text));
  }
  const size_t needed = size_t{options.prefill_tokens} + options.decode_tokens;
  if (tokens.size() < needed) {
    return absl::InvalidArgumentError(
        fmt::format("the text has {} tokens; --prefill-tokens {} and --decode-tokens {} need {}: give a longer "
                    "text or smaller numbers",
                    tokens.size(), options.prefill_tokens, options.decode_tokens, needed));
  }
  tokens.resize(needed);
  return tokens;
}

void AddTokens(std::string_view text, std::vector<uint32_t>* tokens) {
  const std::vector<uint32_t> added = TokensFromBytes(text);
  tokens->insert(tokens->end(), added.begin(), added.end());
}

void FillQuestion(const EvalQuestion& question, bool decode_question, GenerateSpec& spec) {
  const NeedlePrompt& prompt = question.prompt;
  if (question.is_continued) spec.lease.lease_ns = kTurnLeaseNs;
  if (question.continues) {  // layout and policy are the sequence's
    spec.placement = {};
    spec.policy = {};
  } else {
    AddTokens(prompt.text, &spec.prompt_tokens);
    // The last question has the full length.
    if (question.is_continued) {
      spec.lease.max_context_tokens = question.spec.length_tokens + prompt.answer.size();
    }
  }
  AddTokens(prompt.question, decode_question ? &spec.forced_tokens : &spec.prompt_tokens);
  spec.max_tokens = static_cast<uint32_t>(spec.forced_tokens.size() + prompt.answer.size());
}

}  // namespace

absl::StatusOr<EvalPlan> MakeEvalPlan(const EvalOptions& options) {
  TRIBUTARY_RETURN_IF_ERROR(CheckEval(options));
  EvalPlan plan;
  plan.options = options;
  plan.is_byte_text = options.text_tokens_file.empty();
  TRIBUTARY_ASSIGN_OR_RETURN(plan.settings, ExpandGrid(options));
  TRIBUTARY_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(plan.is_byte_text ? options.text_file : options.text_tokens_file));
  if (options.decode_tokens > 0) {
    TRIBUTARY_ASSIGN_OR_RETURN(plan.text_tokens, ScoredTokens(options, text));
  }
  if (options.needles > 0) {
    TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<NeedleSpec> specs, NeedleSpecs(options));
    for (const NeedleSpec& spec : specs) {
      TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<NeedlePrompt> prompts, MakeNeedlePrompts(spec, text));
      const bool turns = options.turns && spec.kind == NeedleKind::kMultiQuery;
      for (size_t i = 0; i < prompts.size(); ++i) {
        plan.questions.push_back({.spec = spec,
                                  .prompt = prompts[i],
                                  .continues = turns && i > 0,
                                  .is_continued = turns && i + 1 < prompts.size()});
      }
    }
  }
  for (size_t setting = 0; setting < plan.settings.size(); ++setting) {
    if (options.decode_tokens > 0) plan.jobs.push_back({setting, EvalJob::kPerplexity});
    for (size_t i = 0; i < plan.questions.size(); ++i) plan.jobs.push_back({setting, i});
  }
  return plan;
}

absl::Status FitToModel(const v1::ModelGeometry& geometry, EvalPlan* plan) {
  plan->vocab_size = geometry.vocab_size();
  if (plan->is_byte_text) {
    TRIBUTARY_RETURN_IF_ERROR(CheckByteVocab(plan->vocab_size,
                                             "give token ids with --text-tokens-file FILE, which measures perplexity "
                                             "(needles need a byte vocabulary)"));
  }
  for (const EvalSetting& setting : plan->settings) {
    const PolicyContext context{.num_layers = geometry.num_layers(), .num_kv_heads = geometry.num_kv_heads()};
    TRIBUTARY_RETURN_IF_ERROR(ResolvePolicy(setting.policy, context).status());
  }
  const uint32_t by_default = plan->vocab_size == kByteVocab ? kByteVocab : kDefaultTopLogprobs;
  plan->top_logprobs = std::min(plan->options.top_logprobs.value_or(by_default), plan->vocab_size);
  return absl::OkStatus();
}

absl::StatusOr<v1::GenerateRequest> BuildEvalRequest(const EvalPlan& plan, const EvalJob& job) {
  const EvalSetting& setting = plan.settings[job.setting];
  RequestOptions options = plan.options.layout;
  options.window_tokens = setting.window_tokens;
  options.ignore_eos = true;
  GenerateSpec spec;
  TRIBUTARY_RETURN_IF_ERROR(FillCommon(options, spec));
  spec.policy = setting.policy;
  spec.report_attention_heads = true;
  if (job.question == EvalJob::kPerplexity) {
    const auto split = plan.text_tokens.begin() + plan.options.prefill_tokens;
    spec.prompt_tokens.assign(plan.text_tokens.begin(), split);
    spec.forced_tokens.assign(split, plan.text_tokens.end());
    spec.max_tokens = plan.options.decode_tokens;
    spec.top_logprobs = plan.top_logprobs;
  } else {
    FillQuestion(plan.questions[job.question], plan.options.decode_question, spec);
  }
  return GenerateRequestToProto(spec);
}

double JobWeight(const v1::GenerateRequest& request) {
  const double prompt = request.prompt_tokens_size();
  return prompt * (1 + prompt / kPrefillGrowthTokens) + kDecodeWeight * request.max_tokens();
}

}  // namespace tributary
