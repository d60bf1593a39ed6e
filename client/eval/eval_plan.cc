#include "client/eval/eval_plan.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "client/api/request_builder.h"
#include "client/api/request_input.h"
#include "client/eval/eval_random.h"
#include "fmt/format.h"
#include "model/byte_text.h"
#include "nlohmann/json.hpp"
#include "proto/convert_request.h"

namespace tributary {
namespace {

// A token decoded alone costs about as much as so many of a short prefill; attention makes the tokens of a long prefill
// dearer. Measured with the probe model on two cores; the ETA corrects itself by what jobs really take.
constexpr double kDecodeWeight = 290;
constexpr double kPrefillGrowthTokens = 400;
// For how long a sequence waits for its next question.
constexpr int64_t kTurnLeaseNs = 120 * kNsPerS;

absl::StatusOr<std::vector<TaskSpec>> TaskSpecs(const EvalOptions& options) {
  std::vector<TaskSpec> specs;
  for (const std::string& name : options.tasks) {
    TRIBUTARY_ASSIGN_OR_RETURN(const TaskRow* const task, FindTask(name));
    const auto row = static_cast<uint64_t>(task - Tasks().data());
    const std::vector<double> depths = task->has_depth ? options.depths : std::vector<double>{0};
    for (const uint32_t length : options.lengths) {
      for (size_t d = 0; d < depths.size(); ++d) {
        for (uint32_t repeat = 0; repeat < options.questions; ++repeat) {
          EvalRandom random(options.seed, {row, length, d, repeat});
          specs.push_back({.task = task,
                           .length_tokens = length,
                           .depth = depths[d],
                           .needles = name == "single" ? 1 : options.needles,
                           .queries = std::min(options.queries, options.needles),
                           .fields = options.fields,
                           .seed = random.Next()});
        }
      }
    }
  }
  return specs;
}

absl::StatusOr<EvalText> ScoredText(const EvalOptions& options, const std::string& name, std::vector<uint32_t> tokens) {
  const size_t needed = size_t{options.prefill_tokens} + options.decode_tokens;
  if (tokens.size() < needed) {
    return absl::InvalidArgumentError(
        fmt::format("the text has {} tokens; --prefill-tokens {} and --decode-tokens {} need {}: give a longer "
                    "text than '{}', or smaller numbers",
                    tokens.size(), options.prefill_tokens, options.decode_tokens, needed, name));
  }
  tokens.resize(needed);
  return EvalText{name, std::move(tokens)};
}

// The tokens that the model can have in one context; 0: not known.
uint64_t ContextTokens(const EvalOptions& options) {
  const std::string& folder = options.cluster.model_dir.empty() ? options.tokenizer_dir : options.cluster.model_dir;
  std::ifstream file(std::filesystem::path(folder) / "config.json");
  const auto config = nlohmann::json::parse(file, nullptr, false);
  const auto found = config.is_object() ? config.find("max_position_embeddings") : config.end();
  return config.is_object() && found != config.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}

// Says what is longer than the model's context, and cuts the drift.
absl::Status FitToContext(EvalPlan& plan) {
  plan.drift_tokens = plan.options.drift_tokens;
  const uint64_t context = ContextTokens(plan.options);
  const uint64_t scored =
      plan.options.decode_tokens == 0 ? 0 : plan.options.prefill_tokens + plan.options.decode_tokens;
  uint64_t longest = scored;
  for (const uint32_t length : plan.options.lengths) longest = std::max<uint64_t>(longest, length);
  if (context > 0 && longest > context) {
    plan.notes.push_back(fmt::format("{} tokens are asked for, and the model's context has {}", longest, context));
  }
  if (plan.drift_tokens == 0 || context == 0) return absl::OkStatus();
  if (plan.options.prefill_tokens >= context) {
    return absl::InvalidArgumentError(
        fmt::format("the model's context has {} tokens and --prefill-tokens takes {}; none is left for --drift-tokens",
                    context, plan.options.prefill_tokens));
  }
  const uint64_t room = context - plan.options.prefill_tokens;
  if (room >= plan.drift_tokens) return absl::OkStatus();
  plan.notes.push_back(fmt::format("drift: {} tokens instead of {}, for the model's context has {} and the prefill {}",
                                   room, plan.drift_tokens, context, plan.options.prefill_tokens));
  plan.drift_tokens = static_cast<uint32_t>(room);
  return absl::OkStatus();
}

absl::Status PlanQuestions(const std::vector<SourceText>& sources, EvalPlan& plan) {
  TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<TaskSpec> specs, TaskSpecs(plan.options));
  size_t next_source = 0;
  for (const TaskSpec& spec : specs) {
    const SourceText& source = sources[next_source++ % sources.size()];
    TRIBUTARY_ASSIGN_OR_RETURN(std::vector<TaskPrompt> prompts, spec.task->build(spec, {*plan.codec, source}));
    const bool turns = plan.options.turns && spec.task->asks_several;
    for (size_t i = 0; i < prompts.size(); ++i) {
      plan.questions.push_back({.spec = spec,
                                .prompt = std::move(prompts[i]),
                                .continues = turns && i > 0,
                                .is_continued = turns && i + 1 < prompts.size()});
    }
  }
  return absl::OkStatus();
}

absl::Status ReadTexts(EvalPlan& plan) {
  const EvalOptions& options = plan.options;
  const bool needs_texts = options.decode_tokens > 0 || options.drift_tokens > 0;
  std::vector<SourceText> sources;
  for (const std::string& name : plan.codec == nullptr ? options.text_tokens_files : options.text_files) {
    TRIBUTARY_ASSIGN_OR_RETURN(std::string text, ReadTextFile(name));
    std::vector<uint32_t> tokens;
    if (plan.codec == nullptr) {
      TRIBUTARY_ASSIGN_OR_RETURN(tokens, ParseTokenIds(text));
    } else {
      TRIBUTARY_ASSIGN_OR_RETURN(TokenizedText tokenized, plan.codec->EncodeWithBegins(text));
      tokens = plan.codec->prefix();
      tokens.insert(tokens.end(), tokenized.tokens.begin(), tokenized.tokens.end());
      sources.emplace_back(std::move(text), std::move(tokenized));
    }
    if (!needs_texts) continue;
    TRIBUTARY_ASSIGN_OR_RETURN(EvalText scored, ScoredText(options, name, std::move(tokens)));
    plan.texts.push_back(std::move(scored));
  }
  return options.lengths.empty() ? absl::OkStatus() : PlanQuestions(sources, plan);
}

void FillQuestion(const EvalPlan& plan, size_t index, GenerateSpec& spec) {
  const EvalQuestion& question = plan.questions[index];
  const TaskPrompt& prompt = question.prompt;
  if (question.is_continued) spec.lease.lease_ns = kTurnLeaseNs;
  if (question.continues) {  // layout and policy are the sequence's
    spec.placement = {};
    spec.policy = {};
  } else {
    spec.prompt_tokens = prompt.text_tokens;
    if (question.is_continued) {
      spec.lease.max_context_tokens = prompt.text_tokens.size();
      for (size_t i = index; i == index || plan.questions[i - 1].is_continued; ++i) {
        const TaskPrompt& turn = plan.questions[i].prompt;
        spec.lease.max_context_tokens += turn.question_tokens.size() + turn.max_answer_tokens;
      }
    }
  }
  std::vector<uint32_t>& asked = plan.options.decode_question ? spec.forced_tokens : spec.prompt_tokens;
  asked.insert(asked.end(), prompt.question_tokens.begin(), prompt.question_tokens.end());
  spec.max_tokens = static_cast<uint32_t>(spec.forced_tokens.size() + prompt.max_answer_tokens);
}

// The largest token of the plan.
uint32_t LargestToken(const EvalPlan& plan) {
  uint32_t largest = 0;
  const auto look_at = [&largest](const std::vector<uint32_t>& tokens) {
    for (const uint32_t token : tokens) largest = std::max(largest, token);
  };
  for (const EvalText& text : plan.texts) look_at(text.tokens);
  for (const EvalQuestion& question : plan.questions) {
    look_at(question.prompt.text_tokens);
    look_at(question.prompt.question_tokens);
  }
  return largest;
}

}  // namespace

absl::StatusOr<EvalPlan> MakeEvalPlan(const EvalOptions& options, std::shared_ptr<TextCodec> codec) {
  TRIBUTARY_RETURN_IF_ERROR(CheckEval(options));
  EvalPlan plan;
  plan.options = options;
  plan.codec = std::move(codec);
  TRIBUTARY_ASSIGN_OR_RETURN(plan.settings, ExpandGrid(options));
  TRIBUTARY_RETURN_IF_ERROR(FitToContext(plan));
  TRIBUTARY_RETURN_IF_ERROR(ReadTexts(plan));
  for (size_t setting = 0; setting < plan.settings.size(); ++setting) {
    for (size_t i = 0; i < plan.texts.size() && options.decode_tokens > 0; ++i) {
      plan.jobs.push_back({setting, EvalJobKind::kPerplexity, i});
    }
    if (plan.drift_tokens > 0) plan.jobs.push_back({setting, EvalJobKind::kDrift, 0});
    for (size_t i = 0; i < plan.questions.size(); ++i) plan.jobs.push_back({setting, EvalJobKind::kQuestion, i});
  }
  return plan;
}

absl::StatusOr<EvalPlan> MakeEvalPlan(const EvalOptions& options) {
  TRIBUTARY_RETURN_IF_ERROR(CheckEval(options));
  if (!options.text_tokens_files.empty()) return MakeEvalPlan(options, nullptr);
  TRIBUTARY_ASSIGN_OR_RETURN(std::shared_ptr<TextCodec> codec,
                             MakeTextCodec({.tokenizer_dir = options.tokenizer_dir,
                                            .model_dir = options.cluster.model_dir,
                                            .python = options.python,
                                            .with_frame = options.chat_template == "auto"}));
  return MakeEvalPlan(options, std::move(codec));
}

absl::Status FitToModel(const v1::ModelGeometry& geometry, EvalPlan* plan) {
  plan->vocab_size = geometry.vocab_size();
  if (plan->codec != nullptr && plan->codec->is_bytes()) {
    TRIBUTARY_RETURN_IF_ERROR(CheckByteVocab(plan->vocab_size,
                                             "name the folder of its tokenizer with --tokenizer DIR, or give token ids "
                                             "with --text-tokens-file FILE, which measures perplexity and drift"));
  }
  if (const uint32_t largest = LargestToken(*plan); largest >= plan->vocab_size) {
    return absl::InvalidArgumentError(fmt::format(
        "the texts have the token {}, and the model's vocabulary ends at {}; are the tokens, or the tokenizer, this "
        "model's?",
        largest, plan->vocab_size - 1));
  }
  for (const EvalSetting& setting : plan->settings) {
    const PolicyContext context{.num_layers = geometry.num_layers(), .num_kv_heads = geometry.num_kv_heads()};
    TRIBUTARY_RETURN_IF_ERROR(ResolvePolicy(setting.policy, context).status());
  }
  const uint32_t by_default = plan->vocab_size == kByteVocab ? kByteVocab : kDefaultTopLogprobs;
  plan->top_logprobs = std::min(plan->options.top_logprobs.value_or(by_default), plan->vocab_size);
  return absl::OkStatus();
}

absl::StatusOr<v1::GenerateRequest> BuildEvalRequest(const EvalPlan& plan, const EvalJob& job,
                                                     std::span<const uint32_t> drift) {
  const EvalSetting& setting = plan.settings[job.setting];
  RequestOptions options = plan.options.layout;
  options.window_tokens = setting.window_tokens;
  options.ignore_eos = true;
  GenerateSpec spec;
  TRIBUTARY_RETURN_IF_ERROR(FillCommon(options, spec));
  spec.policy = setting.policy;
  spec.report_attention_heads = true;
  if (job.kind == EvalJobKind::kQuestion) {
    FillQuestion(plan, job.index, spec);
    return GenerateRequestToProto(spec);
  }
  const std::vector<uint32_t>& text = plan.texts[job.index].tokens;
  const auto split = text.begin() + plan.options.prefill_tokens;
  spec.prompt_tokens.assign(text.begin(), split);
  spec.top_logprobs = plan.top_logprobs;
  if (job.kind == EvalJobKind::kDrift) {
    spec.forced_tokens.assign(drift.begin(), drift.end());
    spec.max_tokens = plan.drift_tokens;
  } else {
    spec.forced_tokens.assign(split, text.end());
    spec.max_tokens = plan.options.decode_tokens;
  }
  return GenerateRequestToProto(spec);
}

size_t EndOfChain(const EvalPlan& plan, size_t first) {
  size_t end = first;
  while (plan.jobs[end].kind == EvalJobKind::kQuestion && plan.questions[plan.jobs[end].index].is_continued) ++end;
  return end + 1;
}

double JobWeight(const v1::GenerateRequest& request) {
  const double prompt = request.prompt_tokens_size();
  return prompt * (1 + prompt / kPrefillGrowthTokens) + kDecodeWeight * request.max_tokens();
}

}  // namespace tributary
