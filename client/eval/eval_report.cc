#include "client/eval/eval_report.h"

#include <optional>
#include <utility>

#include "fmt/format.h"

namespace tributary {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
Json OrNull(const std::optional<T>& value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

Json UsageJson(const KvUsage& usage) {
  Json object;
  object["context_tokens_mean"] = usage.context_tokens_mean;
  object["attended_tokens_mean"] = usage.attended_tokens_mean;
  object["remote_tokens"] = usage.remote_tokens;
  object["kv_read_share"] = usage.kv_read_share;
  object["remote_read_share"] = usage.remote_read_share;
  return object;
}

Json PerplexityJson(const PerplexityResult& result, const SettingResult& baseline) {
  Json object = UsageJson(result.usage);
  object["nll_mean"] = result.nll_mean;
  object["perplexity"] = result.perplexity;
  object["prefill_s"] = result.prefill_s;
  object["decode_s"] = result.decode_s;
  if (baseline.perplexity.has_value()) {
    const Agreement agreement = CompareLogprobs(result.logprobs, baseline.perplexity->logprobs);
    object["perplexity_ratio"] = result.perplexity / baseline.perplexity->perplexity;
    object["logprob_abs_diff_mean"] = agreement.logprob_abs_diff_mean;
    object["logprob_abs_diff_max"] = agreement.logprob_abs_diff_max;
  }
  object["logprobs"] = result.logprobs;
  return object;
}

Json QuestionJson(const EvalQuestion& question, const NeedleResult& result) {
  const double text_bytes = static_cast<double>(question.prompt.text.size());
  Json object = UsageJson(result.usage);
  object["kind"] = std::string(NeedleKindName(question.spec.kind));
  object["length_tokens"] = question.spec.length_tokens;
  object["depth"] = question.prompt.needle_begin / text_bytes;
  object["needles"] = question.spec.needles;
  object["name"] = question.prompt.name;
  object["expected"] = question.prompt.answer;
  object["answer"] = result.answer;
  object["found"] = result.found;
  return object;
}

Json NeedlesJson(const EvalPlan& plan, const SettingResult& result, const SettingResult& baseline) {
  const NeedleScore score = ScoreNeedles(result.needles, baseline.needles);
  Json object;
  object["asked"] = score.asked;
  object["found"] = score.found;
  object["baseline_found"] = score.baseline_found;
  object["found_where_baseline"] = score.found_where_baseline;
  object["remote_read_share_mean"] = score.remote_read_share_mean;
  Json questions = Json::array();
  for (const NeedleResult& needle : result.needles) {
    questions.push_back(QuestionJson(plan.questions[needle.question], needle));
  }
  object["questions"] = std::move(questions);
  return object;
}

Json SettingJson(const EvalPlan& plan, const EvalSetting& setting, const SettingResult& result,
                 const SettingResult& baseline) {
  Json object;
  object["name"] = SettingName(setting);
  object["policy"] = setting.policy.name;
  object["window_tokens"] = setting.window_tokens;
  object["alpha"] = OrNull(setting.policy.alpha);
  object["beta"] = OrNull(setting.policy.beta);
  object["keep_min"] = OrNull(setting.policy.keep_min);
  object["keep_next"] = OrNull(setting.policy.keep_next);
  object["min_kept_mass"] = OrNull(setting.policy.min_kept_mass);
  object["quality_sample_rate"] = OrNull(setting.policy.quality_sample_rate);
  object["perplexity"] =
      result.perplexity.has_value() ? PerplexityJson(*result.perplexity, baseline) : Json(nullptr);
  object["needles"] = result.needles.empty() ? Json(nullptr) : NeedlesJson(plan, result, baseline);
  return object;
}

std::string CsvCell(const Json& value) { return value.is_null() ? "" : value.dump(); }

// "-" where there is nothing.
template <typename... Args>
std::string Cell(bool there, fmt::format_string<Args...> format, Args&&... args) {
  return there ? fmt::format(format, std::forward<Args>(args)...) : "-";
}

}  // namespace

std::string SettingName(const EvalSetting& setting) {
  const PolicyRequest& policy = setting.policy;
  std::string name = policy.name;
  if (policy.alpha.has_value()) name += fmt::format(" alpha={}", *policy.alpha);
  if (policy.beta.has_value()) name += fmt::format(" beta={}", *policy.beta);
  if (policy.keep_min.has_value()) name += fmt::format(" keep_min={}", *policy.keep_min);
  if (policy.keep_next.has_value()) name += fmt::format(" keep_next={}", *policy.keep_next);
  if (policy.min_kept_mass.has_value()) {
    name += fmt::format(" min_kept_mass={}", *policy.min_kept_mass);
  }
  return name;
}

Json EvalJson(const EvalPlan& plan, const EvalReport& report) {
  const EvalOptions& options = plan.options;
  Json object;
  object["schema"] = kEvalSchema;
  object["complete"] = report.status.ok() && report.results.size() == plan.settings.size();
  object["error"] = report.status.ok() ? Json(nullptr) : Json(std::string(report.status.message()));
  object["version"] = report.cluster.version();
  const auto& geometry = report.cluster.geometry();
  object["model"] = {{"name", geometry.model_name()},
                     {"num_layers", geometry.num_layers()},
                     {"num_q_heads", geometry.num_q_heads()},
                     {"num_kv_heads", geometry.num_kv_heads()},
                     {"head_dim", geometry.head_dim()}};
  object["text"] = plan.is_byte_text ? options.text_file : options.text_tokens_file;
  object["seed"] = options.seed;
  object["prefill_tokens"] = options.prefill_tokens;
  object["decode_tokens"] = options.decode_tokens;
  object["decode_question"] = options.decode_question;
  Json settings = Json::array();
  for (size_t i = 0; i < report.results.size(); ++i) {
    settings.push_back(SettingJson(plan, plan.settings[i], report.results[i], report.results[0]));
  }
  object["settings"] = std::move(settings);
  return object;
}

std::string EvalCsv(const EvalPlan& plan, const EvalReport& report) {
  constexpr const char* kSettingColumns[] = {"policy",   "window_tokens", "alpha",        "beta",
                                             "keep_min", "keep_next",     "min_kept_mass"};
  constexpr const char* kPerplexityColumns[] = {"nll_mean",
                                                "perplexity",
                                                "perplexity_ratio",
                                                "logprob_abs_diff_mean",
                                                "logprob_abs_diff_max",
                                                "kv_read_share",
                                                "remote_read_share"};
  constexpr const char* kNeedleColumns[] = {"asked", "found", "baseline_found",
                                            "found_where_baseline", "remote_read_share_mean"};
  std::string text;
  for (const char* column : kSettingColumns) text += fmt::format("{},", column);
  for (const char* column : kPerplexityColumns) text += fmt::format("{},", column);
  for (const char* column : kNeedleColumns) {
    text +=
        fmt::format("needles_{}{}", column, column == std::end(kNeedleColumns)[-1] ? "\n" : ",");
  }
  const Json report_json = EvalJson(plan, report);
  for (const Json& setting : report_json["settings"]) {
    std::vector<std::string> cells;
    const auto add = [&cells](const Json& object, std::span<const char* const> columns) {
      for (const char* column : columns) {
        cells.push_back(object.is_object() && object.contains(column) ? CsvCell(object[column])
                                                                      : "");
      }
    };
    add(setting, kSettingColumns);
    add(setting["perplexity"], kPerplexityColumns);
    add(setting["needles"], kNeedleColumns);
    text += fmt::format("{}\n", fmt::join(cells, ","));
  }
  return text;
}

std::string EvalTable(const EvalPlan& plan, const EvalReport& report) {
  std::string text =
      fmt::format("{:<36} {:>7} {:>11} {:>9} {:>11} {:>8} {:>13}\n", "setting", "window",
                  "perplexity", "to dense", "remote read", "needles", "of dense's");
  for (size_t i = 0; i < report.results.size(); ++i) {
    const SettingResult& result = report.results[i];
    const SettingResult& baseline = report.results[0];
    const bool scored = result.perplexity.has_value();
    const PerplexityResult perplexity = result.perplexity.value_or(PerplexityResult{});
    const NeedleScore score = ScoreNeedles(result.needles, baseline.needles);
    const bool asked = score.asked > 0;
    const double read = scored ? perplexity.usage.remote_read_share : score.remote_read_share_mean;
    const double ratio = scored && baseline.perplexity.has_value()
                             ? perplexity.perplexity / baseline.perplexity->perplexity
                             : 1;
    text += fmt::format(
        "{:<36} {:>7} {:>11} {:>9} {:>11} {:>8} {:>13}\n", SettingName(plan.settings[i]),
        plan.settings[i].window_tokens, Cell(scored, "{:.4f}", perplexity.perplexity),
        Cell(scored, "{:+.2f} %", (ratio - 1) * 100), Cell(scored || asked, "{:.1f} %", read * 100),
        Cell(asked, "{}/{}", score.found, score.asked),
        Cell(asked, "{}/{}", score.found_where_baseline, score.baseline_found));
  }
  return text;
}

}  // namespace tributary
