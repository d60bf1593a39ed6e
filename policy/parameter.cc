#include "policy/parameter.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/limits.h"
#include "base/outside_text.h"
#include "base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace tributary {
namespace {

template <typename... Args>
absl::Status Invalid(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError(fmt::format(format, std::forward<Args>(args)...));
}

std::string_view TypeName(ParameterType type) {
  constexpr std::string_view kNames[] = {"a number", "a count", "a word", "a list of layers", "a list of KV heads"};
  return kNames[static_cast<size_t>(type)];
}

// Written so that NaN fails.
absl::Status CheckNumber(const ParameterRow& row, double value) {
  if (std::isfinite(value) && value >= row.min_number && value <= row.max_number) return absl::OkStatus();
  if (std::isfinite(row.max_number)) {
    return Invalid("{} is {}; use a number from {} to {}", row.name, value, row.min_number, row.max_number);
  }
  return Invalid("{} is {}; use {} or a larger, finite number", row.name, value, row.min_number);
}

absl::Status CheckCount(const ParameterRow& row, uint64_t value) {
  if (value >= row.min_count && value <= row.max_count) return absl::OkStatus();
  if (value > row.max_count) return Invalid("{} is {}; use at most {}", row.name, value, row.max_count);
  return Invalid("{} is {}; use at least {}", row.name, value, row.min_count);
}

absl::Status CheckWord(const ParameterRow& row, const std::string& value) {
  if (std::find(row.words.begin(), row.words.end(), value) != row.words.end()) return absl::OkStatus();
  return Invalid("{} '{}' is not known; use {}", row.name, Printable(value, kMaxShownBytes),
                 fmt::join(row.words, " or "));
}

absl::Status CheckLength(const ParameterRow& row, size_t length, size_t most) {
  if (length <= most) return absl::OkStatus();
  return Invalid("{} has {} elements; use at most {}", row.name, length, most);
}

absl::Status CheckLayers(const ParameterRow& row, const std::vector<uint32_t>& layers, const PolicyContext& context) {
  TRIBUTARY_RETURN_IF_ERROR(CheckLength(row, layers.size(), limits::kMaxLayers));
  for (const uint32_t layer : layers) {
    if (context.num_layers == 0 || layer < context.num_layers) continue;
    return Invalid("{} names layer {}; the model has layers 0 to {}", row.name, layer, context.num_layers - 1);
  }
  return absl::OkStatus();
}

absl::Status CheckHeads(const ParameterRow& row, const std::vector<LayerHead>& heads, const PolicyContext& context) {
  TRIBUTARY_RETURN_IF_ERROR(CheckLength(row, heads.size(), limits::kMaxPolicyHeads));
  for (const LayerHead& head : heads) {
    if ((context.num_layers != 0 && head.layer >= context.num_layers) ||
        (context.num_kv_heads != 0 && head.kv_head >= context.num_kv_heads)) {
      return Invalid("{} names {}:{}; the model has {} layers and {} KV heads", row.name, head.layer, head.kv_head,
                     context.num_layers, context.num_kv_heads);
    }
  }
  return absl::OkStatus();
}

template <typename T>
bool ParseWhole(std::string_view text, T* value) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *value);
  return error == std::errc() && stop == end;
}

bool ParseHead(std::string_view text, LayerHead* head) {
  const size_t colon = text.find(':');
  return colon != std::string_view::npos && ParseWhole(text.substr(0, colon), &head->layer) &&
         ParseWhole(text.substr(colon + 1), &head->kv_head);
}

// Shares such as 1/256 are written so; "0.00390625" says less.
std::string NumberForHelp(double number) {
  std::string text = fmt::format("{}", number);
  const double inverse = 1 / number;
  if (text.size() > 6 && inverse == std::floor(inverse)) text = fmt::format("1/{:.0f}", inverse);
  return text;
}

}  // namespace

bool ParameterValue::is_empty_list() const { return IsListType(type()) && Elements().empty(); }

std::vector<std::string> ParameterValue::Elements() const {
  std::vector<std::string> elements;
  switch (type()) {
    case ParameterType::kNumber:
      return {fmt::format("{}", number())};
    case ParameterType::kCount:
      return {fmt::format("{}", count())};
    case ParameterType::kWord:
      return {word()};
    case ParameterType::kLayers:
      for (const uint32_t layer : layers()) elements.push_back(fmt::format("{}", layer));
      return elements;
    case ParameterType::kHeads:
      for (const LayerHead& head : heads()) elements.push_back(fmt::format("{}:{}", head.layer, head.kv_head));
      return elements;
  }
  return elements;
}

std::string ParameterValue::Text() const { return fmt::format("{}", fmt::join(Elements(), ",")); }

ParameterValue DefaultOf(const ParameterRow& row) {
  switch (row.type) {
    case ParameterType::kNumber:
      return row.default_number;
    case ParameterType::kCount:
      return row.default_count;
    case ParameterType::kWord:
      return row.default_word;
    case ParameterType::kLayers:
      return std::vector<uint32_t>{};
    case ParameterType::kHeads:
      return std::vector<LayerHead>{};
  }
  TRIBUTARY_CHECK(false);
}

std::string HelpOf(const ParameterRow& row) {
  const std::string_view owner = row.policy.empty() ? std::string_view("sparse policies") : row.policy;
  std::string text = fmt::format("{}: {}", owner, row.help);
  if (row.type == ParameterType::kNumber) text += fmt::format("; default {}", NumberForHelp(row.default_number));
  if (row.type == ParameterType::kCount) text += fmt::format("; default {}", row.default_count);
  if (row.type == ParameterType::kWord) text += fmt::format("; default {}", row.default_word);
  return text;
}

std::string FlagOf(const ParameterRow& row) {
  std::string flag = fmt::format("--{}", row.name);
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

std::string OwnerOf(const ParameterRow& row) {
  return row.policy.empty() ? "sparse policies" : fmt::format("policy {}", row.policy);
}

absl::StatusOr<ParameterValue> CheckedValue(const ParameterRow& row, ParameterValue value,
                                            const PolicyContext& context) {
  if (row.type == ParameterType::kNumber && value.type() == ParameterType::kCount) {
    value = static_cast<double>(value.count());
  }
  if (value.type() != row.type) {
    return Invalid("{} is {} ({}); {} takes {}", row.name, TypeName(value.type()),
                   Printable(value.Text(), kMaxShownBytes), OwnerOf(row), TypeName(row.type));
  }
  absl::Status status;
  switch (row.type) {
    case ParameterType::kNumber:
      status = CheckNumber(row, value.number());
      break;
    case ParameterType::kCount:
      status = CheckCount(row, value.count());
      break;
    case ParameterType::kWord:
      status = CheckWord(row, value.word());
      break;
    case ParameterType::kLayers:
      status = CheckLayers(row, value.layers(), context);
      break;
    case ParameterType::kHeads:
      status = CheckHeads(row, value.heads(), context);
      break;
  }
  TRIBUTARY_RETURN_IF_ERROR(status);
  return value;
}

absl::StatusOr<ParameterValue> ParseValue(const ParameterRow& row, std::span<const std::string> texts) {
  const auto no_such = [&](const std::string& text, std::string_view use) {
    return Invalid("{} has '{}'; use {}", FlagOf(row), Printable(text, kMaxShownBytes), use);
  };
  if (row.type == ParameterType::kLayers) {
    std::vector<uint32_t> layers(texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      if (!ParseWhole(texts[i], &layers[i])) return no_such(texts[i], "numbers of layers, such as 0,2");
    }
    return layers;
  }
  if (row.type == ParameterType::kHeads) {
    std::vector<LayerHead> heads(texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      if (!ParseHead(texts[i], &heads[i])) return no_such(texts[i], "LAYER:KV_HEAD, such as 2:0");
    }
    return heads;
  }
  TRIBUTARY_CHECK_EQ(texts.size(), size_t{1});
  if (row.type == ParameterType::kWord) return texts[0];
  if (row.type == ParameterType::kCount) {
    uint64_t count = 0;
    if (!ParseWhole(texts[0], &count)) return no_such(texts[0], "a whole number from 0 on");
    return count;
  }
  double number = 0;
  if (!ParseWhole(texts[0], &number)) return no_such(texts[0], "a number");
  return number;
}

}  // namespace tributary
