#include "client/eval/eval_report.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "fmt/format.h"
#include "fmt/ranges.h"
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

void AddScored(const PerplexityResult& result, const PerplexityResult* baseline, Json& object) {
  object["nll_mean"] = result.nll_mean;
  object["perplexity"] = result.perplexity;
  object["prefill_s"] = result.prefill_s;
  object["decode_s"] = result.decode_s;
  if (baseline == nullptr) return;
  object["perplexity_ratio"] = result.perplexity / baseline->perplexity;
  if (result.agreement.has_value()) AddAgreement(*result.agreement, object);
}

// What each text gave, and the worst of them.
void AddTexts(const EvalPlan& plan, const SettingResult& result, const SettingResult& baseline, Json& object) {
  Json texts = Json::array();
  double worst_ratio = 0;
  double worst_kl = 0;
  for (const PerplexityResult& text : result.texts) {
    const PerplexityResult* dense = nullptr;
    for (const PerplexityResult& other : baseline.texts) dense = other.text == text.text ? &other : dense;
    Json entry = UsageJson(text.usage);
    entry["text"] = plan.texts[text.text].name;
    AddScored(text, dense, entry);
    entry.erase("kl");  // stands once, in the order of the texts
    if (dense != nullptr) worst_ratio = std::max(worst_ratio, text.perplexity / dense->perplexity);
    if (text.agreement.has_value()) worst_kl = std::max(worst_kl, text.agreement->kl_mean);
    texts.push_back(std::move(entry));
  }
  object["perplexity_ratio_worst"] = worst_ratio;
  object["kl_mean_worst"] = worst_kl;
  object["texts"] = std::move(texts);
}

Json PerplexityJson(const EvalPlan& plan, const SettingResult& result, const SettingResult& baseline) {
  const PerplexityResult& pooled = *result.perplexity;
  Json object = UsageJson(pooled.usage);
  AddScored(pooled, baseline.perplexity.has_value() ? &*baseline.perplexity : nullptr, object);
  if (result.texts.size() > 1) AddTexts(plan, result, baseline, object);
  object["logprobs"] = pooled.logprobs;
  return object;
}

Json DriftJson(const DriftResult& drift) {
  Json object = UsageJson(drift.scored.usage);
  object["tokens"] = drift.tokens.size();
  if (drift.scored.agreement.has_value()) AddAgreement(*drift.scored.agreement, object);
  object.erase("kl");
  Json parts = Json::array();
  size_t begin = 0;
  for (const Agreement& part : drift.parts) {
    Json entry{{"begin", begin}, {"end", begin + part.positions}};
    AddAgreement(part, entry);
    entry.erase("kl");
    parts.push_back(std::move(entry));
    begin += part.positions;
  }
  object["parts"] = std::move(parts);
  return object;
}

Json QuestionJson(const EvalQuestion& question, const QuestionResult& result) {
  const double text_bytes = static_cast<double>(question.prompt.text.size());
  const size_t prompt_tokens = question.prompt.text_tokens.size() + question.prompt.question_tokens.size();
  Json object = UsageJson(result.usage);
  object["kind"] = std::string(question.spec.task->name);
  object["length_tokens"] = question.spec.length_tokens;
  object["prompt_tokens"] = prompt_tokens;
  object["depth"] = question.prompt.needle_begin / text_bytes;
  object["needles"] = question.spec.needles;
  object["name"] = question.prompt.name;
  object["expected"] = question.prompt.expected;
  object["answer"] = result.answer;
  object["score"] = result.score;
  object["found"] = result.found;
  return object;
}

// Which questions are of tasks that the function takes.
template <typename Takes>
std::vector<bool> Those(const EvalPlan& plan, const Takes& takes) {
  std::vector<bool> those;
  for (const EvalQuestion& question : plan.questions) those.push_back(takes(*question.spec.task));
  return those;
}

Json ScoreJson(const TaskScore& score) {
  Json object;
  object["asked"] = score.asked;
  object["found"] = score.found;
  object["baseline_found"] = score.baseline_found;
  object["found_where_baseline"] = score.found_where_baseline;
  object["score_mean"] = score.score_mean;
  object["baseline_score_mean"] = score.baseline_score_mean;
  object["remote_read_share_mean"] = score.remote_read_share_mean;
  object["kept_mass_mean"] = OrNull(score.kept_mass_mean);
  object["kept_mass_min"] = OrNull(score.kept_mass_min);
  object["output_error_mean"] = OrNull(score.output_error_mean);
  object["output_error_max"] = OrNull(score.output_error_max);
  return object;
}

// Scores and questions of some tasks; null if nothing was asked.
Json QuestionsJson(const EvalPlan& plan, const SettingResult& result, const SettingResult& baseline,
                   const std::vector<bool>& those) {
  const TaskScore score = ScoreQuestions(result.questions, baseline.questions, &those);
  if (score.asked == 0) return nullptr;
  Json object = ScoreJson(score);
  Json questions = Json::array();
  for (const QuestionResult& question : result.questions) {
    if (those[question.question]) questions.push_back(QuestionJson(plan.questions[question.question], question));
  }
  object["questions"] = std::move(questions);
  return object;
}

// By name; questions with needles stand in `needles` instead.
Json TasksJson(const EvalPlan& plan, const SettingResult& result, const SettingResult& baseline) {
  Json tasks = Json::object();
  for (const TaskRow& task : Tasks()) {
    Json object = QuestionsJson(plan, result, baseline, Those(plan, [&](const TaskRow& row) { return &row == &task; }));
    if (object.is_null()) continue;
    if (task.has_needles) object.erase("questions");
    tasks[std::string(task.name)] = std::move(object);
  }
  return tasks;
}

Json FailuresJson(const std::vector<JobFailure>& failures) {
  Json list = Json::array();
  for (const JobFailure& failure : failures) list.push_back({{"job", failure.job}, {"error", failure.error}});
  return list;
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

// Of the perplexity; of the questions where there is none.
void AddHeads(const SettingResult& result, Json& object) {
  if (!result.perplexity.has_value() && result.questions.empty()) return;
  const HeadUsage& usage = result.perplexity.has_value() ? result.perplexity->heads : result.question_heads;
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
  object["perplexity"] = result.perplexity.has_value() ? PerplexityJson(plan, result, baseline) : Json(nullptr);
  object["drift"] = result.drift.has_value() ? DriftJson(*result.drift) : Json(nullptr);
  object["needles"] =
      QuestionsJson(plan, result, baseline, Those(plan, [](const TaskRow& task) { return task.has_needles; }));
  object["tasks"] = TasksJson(plan, result, baseline);
  object["failures"] = FailuresJson(result.failures);
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
  object["text"] =
      fmt::format("{}", fmt::join(plan.codec == nullptr ? options.text_tokens_files : options.text_files, ","));
  object["chat_template"] = plan.codec != nullptr && !plan.codec->chat().empty();
  object["seed"] = options.seed;
  object["prefill_tokens"] = options.prefill_tokens;
  object["decode_tokens"] = options.decode_tokens;
  object["decode_question"] = options.decode_question;
  object["drift_tokens"] = plan.drift_tokens;
  object["turns"] = options.turns;
  object["notes"] = plan.notes;
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
  constexpr const char* kDriftColumns[] = {"kl_mean", "kl_max", "top1_agreement"};
  constexpr const char* kTaskColumns[] = {"asked", "score_mean", "baseline_score_mean"};
  std::vector<std::string> header = setting_columns;
  header.insert(header.end(), std::begin(kPerplexityColumns), std::end(kPerplexityColumns));
  for (const char* column : kNeedleColumns) header.push_back(fmt::format("needles_{}", column));
  for (const char* column : kDriftColumns) header.push_back(fmt::format("drift_{}", column));
  for (const TaskRow& task : Tasks()) {
    for (const char* column : kTaskColumns) header.push_back(fmt::format("{}_{}", task.name, column));
  }
  std::string text = fmt::format("{}\n", fmt::join(header, ","));
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
    add(setting["drift"], kDriftColumns);
    for (const TaskRow& task : Tasks()) add(setting["tasks"].value(std::string(task.name), Json()), kTaskColumns);
    text += fmt::format("{}\n", fmt::join(cells, ","));
  }
  return text;
}

std::string EvalTable(const EvalPlan& plan, const EvalReport& report) {
  constexpr const char* kRow = "{:<36} {:>7} {:>10} {:>9} {:>9} {:>8} {:>11} {:>9} {:>9} {:>8} {:>10}\n";
  std::string text = fmt::format(fmt::runtime(kRow), "setting", "window", "perplexity", "to dense", "KL", "top-1",
                                 "remote read", "mass kept", "error p95", "found", "of dense's");
  for (size_t i = 0; i < report.results.size(); ++i) {
    const SettingResult& result = report.results[i];
    const SettingResult& baseline = report.results[0];
    const bool scored = result.perplexity.has_value();
    const PerplexityResult perplexity = result.perplexity.value_or(PerplexityResult{});
    const TaskScore score = ScoreQuestions(result.questions, baseline.questions);
    const bool asked = score.asked > 0;
    const double read = scored ? perplexity.usage.remote_read_share : score.remote_read_share_mean;
    const std::optional<double> kept = scored ? perplexity.usage.kept_mass_mean : score.kept_mass_mean;
    const std::optional<double> error = perplexity.usage.output_error_p95;
    const bool compared = scored && baseline.perplexity.has_value();
    const double ratio = compared ? perplexity.perplexity / baseline.perplexity->perplexity : 1;
    const Agreement agreement = compared ? perplexity.agreement.value_or(Agreement{}) : Agreement{};
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
