#include "client/eval/eval_report.h"

#include <optional>
#include <utility>

#include "fmt/format.h"
#include "policy/policy_registry.h"

namespace tributary {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
Json OrNull(const std::optional<T>& value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

// Null for a scalar that was not given, as for any policy that has no such parameter.
Json ParameterJson(const ParameterRow& row, const ParameterValue* value) {
  if (value == nullptr) return IsListType(row.type) ? Json::array() : Json(nullptr);
  switch (value->type()) {
    case ParameterType::kNumber:
      return value->number();
    case ParameterType::kCount:
      return value->count();
    case ParameterType::kWord:
      return value->word();
    case ParameterType::kLayers:
      return value->layers();
    case ParameterType::kHeads:
      return value->Elements();
  }
  return nullptr;
}

Json UsageJson(const KvUsage& usage) {
  Json object;
  object["context_tokens_mean"] = usage.context_tokens_mean;
  object["attended_tokens_mean"] = usage.attended_tokens_mean;
  object["remote_tokens"] = usage.remote_tokens;
  object["kv_read_share"] = usage.kv_read_share;
  object["remote_read_share"] = usage.remote_read_share;
  object["kept_mass_mean"] = OrNull(usage.kept_mass_mean);
  object["kept_mass_min"] = OrNull(usage.kept_mass_min);
  object["output_error_mean"] = OrNull(usage.output_error_mean);
  object["output_error_p95"] = OrNull(usage.output_error_p95);
  object["output_error_max"] = OrNull(usage.output_error_max);
  return object;
}

void AddAgreement(const Agreement& agreement, Json& object) {
  object["logprob_abs_diff_mean"] = agreement.logprob_abs_diff_mean;
  object["logprob_abs_diff_max"] = agreement.logprob_abs_diff_max;
  if (agreement.kl.empty()) return;
  object["kl_mean"] = agreement.kl_mean;
  object["kl_max"] = agreement.kl_max;
  object["kl_is_exact"] = agreement.kl_is_exact;
  object["top1_agreement"] = agreement.top1_agreement;
  object["kl"] = agreement.kl;
}

Agreement AgreementOf(const PerplexityResult& result, const PerplexityResult& baseline, uint32_t vocab_size) {
  return Compare({result.logprobs, result.distributions}, {baseline.logprobs, baseline.distributions}, vocab_size);
}

Json PerplexityJson(const EvalPlan& plan, const PerplexityResult& result, const SettingResult& baseline) {
  Json object = UsageJson(result.usage);
  object["nll_mean"] = result.nll_mean;
  object["perplexity"] = result.perplexity;
  object["prefill_s"] = result.prefill_s;
  object["decode_s"] = result.decode_s;
  if (baseline.perplexity.has_value()) {
    object["perplexity_ratio"] = result.perplexity / baseline.perplexity->perplexity;
    AddAgreement(AgreementOf(result, *baseline.perplexity, plan.vocab_size), object);
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
  object["kept_mass_mean"] = OrNull(score.kept_mass_mean);
  object["kept_mass_min"] = OrNull(score.kept_mass_min);
  object["output_error_mean"] = OrNull(score.output_error_mean);
  object["output_error_max"] = OrNull(score.output_error_max);
  Json questions = Json::array();
  for (const NeedleResult& needle : result.needles) {
    questions.push_back(QuestionJson(plan.questions[needle.question], needle));
  }
  object["questions"] = std::move(questions);
  return object;
}

Json HeadsJson(const HeadUsage& usage, double HeadUsage::Head::*field) {
  Json layers = Json::array();
  for (const std::vector<HeadUsage::Head>& heads : usage.heads()) {
    Json row = Json::array();
    for (const HeadUsage::Head& head : heads) {
      row.push_back(head.samples == 0 ? Json(nullptr) : Json(head.*field));
    }
    layers.push_back(std::move(row));
  }
  return layers;
}

// Of the perplexity; of the needles where there is none.
void AddHeads(const SettingResult& result, Json& object) {
  if (!result.perplexity.has_value() && result.needles.empty()) return;
  const HeadUsage& usage = result.perplexity.has_value() ? result.perplexity->heads : result.needle_heads;
  if (usage.empty()) return;
  Json heads;
  heads["remote_read_share"] = HeadsJson(usage, &HeadUsage::Head::read_share);
  heads["kept_mass_mean"] = HeadsJson(usage, &HeadUsage::Head::kept_mass_mean);
  heads["kept_mass_min"] = HeadsJson(usage, &HeadUsage::Head::kept_mass_min);
  heads["output_error_mean"] = HeadsJson(usage, &HeadUsage::Head::output_error_mean);
  heads["output_error_max"] = HeadsJson(usage, &HeadUsage::Head::output_error_max);
  object["heads"] = std::move(heads);
}

Json SettingJson(const EvalPlan& plan, const EvalSetting& setting, const SettingResult& result,
                 const SettingResult& baseline) {
  Json object;
  object["name"] = SettingName(setting);
  object["policy"] = setting.policy.name;
  object["window_tokens"] = setting.window_tokens;
  for (const ParameterColumn& column : AllParameters()) {
    object[std::string(column.row->name)] = ParameterJson(*column.row, setting.policy.Find(column.row->name));
  }
  object["perplexity"] =
      result.perplexity.has_value() ? PerplexityJson(plan, *result.perplexity, baseline) : Json(nullptr);
  object["needles"] = result.needles.empty() ? Json(nullptr) : NeedlesJson(plan, result, baseline);
  AddHeads(result, object);
  return object;
}

// Lists as their elements with blanks between.
std::string CsvCell(const Json& value) {
  if (value.is_null()) return "";
  if (!value.is_array()) return value.dump();
  std::string text;
  for (const Json& element : value) {
    text += text.empty() ? "" : " ";
    text += element.is_string() ? element.get<std::string>() : element.dump();
  }
  return text;
}

// "-" where there is nothing.
template <typename... Args>
std::string Cell(bool there, fmt::format_string<Args...> format, Args&&... args) {
  return there ? fmt::format(format, std::forward<Args>(args)...) : "-";
}

}  // namespace

std::string SettingName(const EvalSetting& setting) {
  std::string name = setting.policy.name;
  for (const ParameterColumn& column : AllParameters()) {
    const ParameterValue* const value = setting.policy.Find(column.row->name);
    if (value == nullptr || value->is_empty_list() || !column.row->names_setting) continue;
    name += fmt::format(" {}={}", column.row->name, value->Text());
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
  object["turns"] = options.turns;
  object["parameters"] = Json::array();
  for (const ParameterColumn& column : AllParameters()) {
    if (column.row->names_setting) object["parameters"].push_back(column.row->name);
  }
  Json settings = Json::array();
  for (size_t i = 0; i < report.results.size(); ++i) {
    settings.push_back(SettingJson(plan, plan.settings[i], report.results[i], report.results[0]));
  }
  object["settings"] = std::move(settings);
  return object;
}

std::string EvalCsv(const EvalPlan& plan, const EvalReport& report) {
  std::vector<std::string> setting_columns{"policy", "window_tokens"};
  for (const ParameterColumn& column : AllParameters()) setting_columns.emplace_back(column.row->name);
  constexpr const char* kPerplexityColumns[] = {
      "nll_mean",       "perplexity",    "perplexity_ratio",  "logprob_abs_diff_mean", "logprob_abs_diff_max",
      "kl_mean",        "kl_max",        "top1_agreement",    "kv_read_share",         "remote_read_share",
      "kept_mass_mean", "kept_mass_min", "output_error_mean", "output_error_p95",      "output_error_max"};
  constexpr const char* kNeedleColumns[] = {
      "asked",          "found",         "baseline_found",    "found_where_baseline", "remote_read_share_mean",
      "kept_mass_mean", "kept_mass_min", "output_error_mean", "output_error_max"};
  std::string text;
  for (const std::string& column : setting_columns) text += fmt::format("{},", column);
  for (const char* column : kPerplexityColumns) text += fmt::format("{},", column);
  for (const char* column : kNeedleColumns) {
    text += fmt::format("needles_{}{}", column, column == std::end(kNeedleColumns)[-1] ? "\n" : ",");
  }
  const Json report_json = EvalJson(plan, report);
  for (const Json& setting : report_json["settings"]) {
    std::vector<std::string> cells;
    const auto add = [&cells](const Json& object, const auto& columns) {
      for (const auto& column : columns) {
        cells.push_back(object.is_object() && object.contains(column) ? CsvCell(object[column]) : "");
      }
    };
    add(setting, setting_columns);
    add(setting["perplexity"], kPerplexityColumns);
    add(setting["needles"], kNeedleColumns);
    text += fmt::format("{}\n", fmt::join(cells, ","));
  }
  return text;
}

std::string EvalTable(const EvalPlan& plan, const EvalReport& report) {
  constexpr const char* kRow = "{:<36} {:>7} {:>10} {:>9} {:>9} {:>8} {:>11} {:>9} {:>9} {:>8} {:>10}\n";
  std::string text = fmt::format(fmt::runtime(kRow), "setting", "window", "perplexity", "to dense", "KL", "top-1",
                                 "remote read", "mass kept", "error p95", "needles", "of dense's");
  for (size_t i = 0; i < report.results.size(); ++i) {
    const SettingResult& result = report.results[i];
    const SettingResult& baseline = report.results[0];
    const bool scored = result.perplexity.has_value();
    const PerplexityResult perplexity = result.perplexity.value_or(PerplexityResult{});
    const NeedleScore score = ScoreNeedles(result.needles, baseline.needles);
    const bool asked = score.asked > 0;
    const double read = scored ? perplexity.usage.remote_read_share : score.remote_read_share_mean;
    const std::optional<double> kept = scored ? perplexity.usage.kept_mass_mean : score.kept_mass_mean;
    const std::optional<double> error = perplexity.usage.output_error_p95;
    const bool compared = scored && baseline.perplexity.has_value();
    const double ratio = compared ? perplexity.perplexity / baseline.perplexity->perplexity : 1;
    const Agreement agreement = compared ? AgreementOf(perplexity, *baseline.perplexity, plan.vocab_size) : Agreement{};
    const bool has_kl = !agreement.kl.empty();
    text += fmt::format(
        fmt::runtime(kRow), SettingName(plan.settings[i]), plan.settings[i].window_tokens,
        Cell(scored, "{:.4f}", perplexity.perplexity), Cell(scored, "{:+.2f} %", (ratio - 1) * 100),
        Cell(has_kl, "{}{:.2g}", agreement.kl_is_exact ? "" : ">= ", agreement.kl_mean),
        Cell(has_kl, "{:.1f} %", agreement.top1_agreement * 100), Cell(scored || asked, "{:.1f} %", read * 100),
        Cell(kept.has_value(), "{:.2f} %", kept.value_or(0) * 100),
        Cell(error.has_value(), "{:.2g}", error.value_or(0)), Cell(asked, "{}/{}", score.found, score.asked),
        Cell(asked, "{}/{}", score.found_where_baseline, score.baseline_found));
  }
  return text;
}

}  // namespace tributary
