#include "model/json_text.h"

#include <set>
#include <vector>

#include "absl/status/status.h"
#include "base/status.h"
#include "fmt/format.h"
#include "model/model_file.h"

namespace tributary {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 16;

// Follows the parser and remembers the first thing that JSON allows and we do not.
class StrictCheck {
 public:
  // Returning false drops the value; what is dropped no longer matters once `problem` is set.
  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    if (!problem_.empty()) return false;
    if (depth > kMaxDepth) {
      problem_ = fmt::format("nests deeper than {}", kMaxDepth);
      return false;
    }
    if (event == json::parse_event_t::object_start) keys_.emplace_back();
    if (event == json::parse_event_t::object_end) keys_.pop_back();
    if (event == json::parse_event_t::key) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) problem_ = fmt::format("names '{}' twice", key);
    }
    return problem_.empty();
  }
  const std::string& problem() const { return problem_; }

 private:
  std::vector<std::set<std::string>> keys_;
  std::string problem_;
};

}  // namespace

absl::StatusOr<json> ParseJsonObject(std::string_view text, const std::string& what) {
  json value;
  StrictCheck check;
  try {
    value = json::parse(text.begin(), text.end(), [&](int depth, json::parse_event_t event, json& parsed) {
      return check(depth, event, parsed);
    });
  } catch (const json::exception& error) {
    if (check.problem().empty()) {
      return absl::InvalidArgumentError(fmt::format("{}: malformed JSON: {}", what, error.what()));
    }
  }
  if (!check.problem().empty()) {
    return absl::InvalidArgumentError(fmt::format("{}: the JSON {}", what, check.problem()));
  }
  if (!value.is_object()) {
    return absl::InvalidArgumentError(fmt::format("{}: expected a JSON object, found {}", what, BriefJson(value)));
  }
  return value;
}

absl::StatusOr<json> ReadJsonFile(const std::filesystem::path& path, size_t max_bytes) {
  TRIBUTARY_ASSIGN_OR_RETURN(const std::string text, ReadModelFile(path, max_bytes));
  TRIBUTARY_RETURN_IF_ERROR(CheckNoLfsPointer(path, text));
  return ParseJsonObject(text, path.string());
}

std::string BriefJson(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

}  // namespace tributary
