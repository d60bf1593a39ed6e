#include "client/api/request_input.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>

#include "base/file_kind.h"
#include "base/limits.h"
#include "base/outside_text.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr std::string_view kBlanks = " \t\r\n\v\f";

struct FileCloser {
  void operator()(std::FILE* file) const {
    if (file != stdin) std::fclose(file);
  }
};

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

absl::Status AddToken(std::string_view word, std::vector<uint32_t>& tokens) {
  uint32_t token = 0;
  const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), token);
  if (error != std::errc() || stop != word.data() + word.size()) {
    return absl::InvalidArgumentError(
        fmt::format("token {} is '{}', not an id; a file of ids holds numbers between blanks, or a JSON array",
                    tokens.size() + 1, Printable(word, kMaxShownBytes)));
  }
  tokens.push_back(token);
  return absl::OkStatus();
}

// What stands between the brackets of the array, or of the object's first "tokens".
absl::StatusOr<std::string_view> ArrayBody(std::string_view json) {
  constexpr std::string_view kKey = "\"tokens\"";
  const absl::Status none = absl::InvalidArgumentError(
      "the file of token ids is JSON without an array of them; use [1, 2, 3], or what --json of 'run' or 'generate' "
      "printed");
  if (json.front() == '{') {
    const size_t key = json.find(kKey);
    if (key == std::string_view::npos) return none;
    json = Trimmed(json.substr(key + kKey.size()));
    if (!json.starts_with(':')) return none;
    json = Trimmed(json.substr(1));
    json = json.substr(0, std::min(json.size(), json.find(']') + 1));
  }
  if (!json.starts_with('[') || !json.ends_with(']')) return none;
  return Trimmed(json.substr(1, json.size() - 2));
}

absl::StatusOr<std::vector<uint32_t>> ParseJsonIds(std::string_view json) {
  TRIBUTARY_ASSIGN_OR_RETURN(std::string_view rest, ArrayBody(json));
  std::vector<uint32_t> tokens;
  while (!rest.empty()) {
    const size_t comma = std::min(rest.find(','), rest.size());
    TRIBUTARY_RETURN_IF_ERROR(AddToken(Trimmed(rest.substr(0, comma)), tokens));
    if (comma == rest.size()) break;
    rest = rest.substr(comma + 1);
    if (rest.empty()) TRIBUTARY_RETURN_IF_ERROR(AddToken(rest, tokens));
  }
  return tokens;
}

}  // namespace

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  const std::string shown = path == "-" ? std::string("standard input") : fmt::format("'{}'", Printable(path));
  if (path != "-") TRIBUTARY_RETURN_IF_ERROR(CheckFileOrPipe(path));
  const std::unique_ptr<std::FILE, FileCloser> file(path == "-" ? stdin : std::fopen(path.c_str(), "rb"));
  if (file == nullptr) return absl::NotFoundError(fmt::format("cannot read {}: {}", shown, std::strerror(errno)));
  std::string text;
  for (char buffer[1 << 16]; true;) {
    const size_t count = std::fread(buffer, 1, sizeof(buffer), file.get());
    text.append(buffer, count);
    if (text.size() > limits::kMaxPromptBytes) {
      return absl::InvalidArgumentError(
          fmt::format("{} has more than {} bytes, which are the most that are taken", shown, limits::kMaxPromptBytes));
    }
    if (count == sizeof(buffer)) continue;
    if (std::ferror(file.get()) == 0) return text;
    return absl::UnavailableError(fmt::format("cannot read {}: {}", shown, std::strerror(errno)));
  }
}

absl::StatusOr<std::vector<uint32_t>> ParseTokenIds(const std::string& text) {
  std::string_view rest = Trimmed(text);
  if (rest.starts_with('[') || rest.starts_with('{')) return ParseJsonIds(rest);
  std::vector<uint32_t> tokens;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find_first_of(kBlanks), rest.size());
    TRIBUTARY_RETURN_IF_ERROR(AddToken(rest.substr(0, end), tokens));
    rest = Trimmed(rest.substr(end));
  }
  return tokens;
}

absl::StatusOr<RequestInput> ReadRequestInput(const RequestOptions& options) {
  RequestInput input;
  const std::string& ids = options.tokens_file.empty() ? options.prompt_tokens_file : options.tokens_file;
  const std::string& file = options.text_file.empty() ? options.prompt_file : options.text_file;
  if (!ids.empty()) {
    input.name = ids;
    TRIBUTARY_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(ids));
    TRIBUTARY_ASSIGN_OR_RETURN(input.tokens, ParseTokenIds(text));
  } else if (!file.empty()) {
    input.name = file;
    input.is_text = true;
    TRIBUTARY_ASSIGN_OR_RETURN(input.text, ReadTextFile(file));
  } else {
    input.name = "--prompt";
    input.is_text = !options.prompt.empty();
    input.text = options.prompt;
  }
  if (input.text.empty() && input.tokens.empty() && options.continue_request_id.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("the prompt is empty ({}); it needs at least one token", Printable(input.name)));
  }
  return input;
}

}  // namespace tributary
