// A parameter of an attention policy: its value as a type of its own, and its row in the table of parameters, from
// which the API, flags, checks, evaluation grids, reports and columns of files are made. A new parameter is a row, a
// member of its policy's struct, and its use.
//
// Everything here is pure. Types are thread-compatible; rows are constants.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/check.h"

namespace tributary {

struct LayerHead {
  uint32_t layer = 0;
  uint32_t kv_head = 0;

  friend bool operator==(const LayerHead&, const LayerHead&) = default;
};

// They stand in the order of ParameterValue's alternatives.
enum class ParameterType : uint8_t {
  kNumber,  // a finite f64
  kCount,   // a whole number from 0 on
  kWord,    // one of a few words
  kLayers,  // layers of the model
  kHeads,   // KV heads of layers of the model
};

// What a parameter is set to. Converts from C++'s own types, so that {"share", 0.5} and {"every", 3} are named values.
class ParameterValue {
 public:
  template <std::floating_point T>
  ParameterValue(T number) : value_(static_cast<double>(number)) {}  // NOLINT: implicit on purpose
  template <std::integral T>
  ParameterValue(T count) : value_(static_cast<uint64_t>(count)) {  // NOLINT
    if constexpr (std::signed_integral<T>) TRIBUTARY_CHECK_GE(count, T{0});
  }
  ParameterValue(std::string word) : value_(std::move(word)) {}                // NOLINT
  ParameterValue(std::string_view word) : value_(std::string(word)) {}         // NOLINT
  ParameterValue(const char* word) : value_(std::string(word)) {}              // NOLINT
  ParameterValue(std::vector<uint32_t> layers) : value_(std::move(layers)) {}  // NOLINT
  ParameterValue(std::vector<LayerHead> heads) : value_(std::move(heads)) {}   // NOLINT

  ParameterType type() const { return static_cast<ParameterType>(value_.index()); }
  // REQUIRES: type() is the one asked for.
  double number() const { return std::get<double>(value_); }
  uint64_t count() const { return std::get<uint64_t>(value_); }
  const std::string& word() const { return std::get<std::string>(value_); }
  const std::vector<uint32_t>& layers() const { return std::get<std::vector<uint32_t>>(value_); }
  const std::vector<LayerHead>& heads() const { return std::get<std::vector<LayerHead>>(value_); }

  // True for a list without elements, which asks for the same as no value.
  bool is_empty_list() const;
  // The value as users write it behind a flag: "0.5", "8", "max", "0,3", "2:0,3:1".
  std::string Text() const;
  // The elements of a list in the same spelling; the value alone if it is no list.
  std::vector<std::string> Elements() const;

  friend bool operator==(const ParameterValue&, const ParameterValue&) = default;

 private:
  std::variant<double, uint64_t, std::string, std::vector<uint32_t>, std::vector<LayerHead>> value_;
};

// A row of the table. Made by the functions below, which leave the fields of other types alone.
struct ParameterRow {
  // The name stands as it is in messages and columns; its flag has hyphens instead of underscores: dense_layers,
  // --dense-layers.
  std::string_view name;
  std::string_view policy;  // whose it is; empty: every sparse policy's
  ParameterType type = ParameterType::kNumber;
  double min_number = 0;
  double max_number = 0;  // infinity: any finite number
  uint64_t min_count = 0;
  uint64_t max_count = 0;
  std::span<const std::string_view> words = {};
  double default_number = 0;
  uint64_t default_count = 0;
  std::string_view default_word = {};  // lists are empty by default
  std::string_view help = {};          // begins in lower case and ends without a stop; the default is added by HelpOf()
  // False for what says how a policy is watched and not what it reads: it tells no two settings apart.
  bool names_setting = true;
};

struct NumberRange {
  double min = 0;
  double max = std::numeric_limits<double>::infinity();
};
struct CountRange {
  uint64_t min = 0;
  uint64_t max = std::numeric_limits<uint64_t>::max();
};

constexpr ParameterRow NumberRow(std::string_view name, std::string_view policy, NumberRange range, double by_default,
                                 std::string_view help) {
  ParameterRow row{.name = name, .policy = policy, .type = ParameterType::kNumber};
  row.min_number = range.min;
  row.max_number = range.max;
  row.default_number = by_default;
  row.help = help;
  return row;
}
constexpr ParameterRow CountRow(std::string_view name, std::string_view policy, CountRange range, uint64_t by_default,
                                std::string_view help) {
  ParameterRow row{.name = name, .policy = policy, .type = ParameterType::kCount};
  row.min_count = range.min;
  row.max_count = range.max;
  row.default_count = by_default;
  row.help = help;
  return row;
}
// `words` outlives the row.
constexpr ParameterRow WordRow(std::string_view name, std::string_view policy, std::span<const std::string_view> words,
                               std::string_view by_default, std::string_view help) {
  ParameterRow row{.name = name, .policy = policy, .type = ParameterType::kWord};
  row.words = words;
  row.default_word = by_default;
  row.help = help;
  return row;
}
// `type`: kLayers or kHeads.
constexpr ParameterRow ListRow(std::string_view name, std::string_view policy, ParameterType type,
                               std::string_view help) {
  ParameterRow row{.name = name, .policy = policy, .type = type};
  row.help = help;
  return row;
}

// What values are checked against; 0 = not known yet, not checked.
struct PolicyContext {
  uint32_t block_tokens = 0;
  uint32_t num_layers = 0;
  uint32_t num_kv_heads = 0;
};

constexpr bool IsListType(ParameterType type) {
  return type == ParameterType::kLayers || type == ParameterType::kHeads;
}

ParameterValue DefaultOf(const ParameterRow& row);

// "toy: one block in so many is read, 1 reads all; default 4".
std::string HelpOf(const ParameterRow& row);
// "--keep-min".
std::string FlagOf(const ParameterRow& row);
// "policy toy", "sparse policies".
std::string OwnerOf(const ParameterRow& row);

// The value in the row's own type, within its range; a count becomes a number where one is asked for. INVALID_ARGUMENT
// with the name, the value and what is allowed: another type, out of range, not finite, no such word, layer or head, or
// a list that is longer than any model's.
absl::StatusOr<ParameterValue> CheckedValue(const ParameterRow& row, ParameterValue value,
                                            const PolicyContext& context);

// What a user wrote behind a flag, one text per element of a list; one text where the row is no list. INVALID_ARGUMENT
// with the flag for a text that is no such value; ranges are left to CheckedValue().
absl::StatusOr<ParameterValue> ParseValue(const ParameterRow& row, std::span<const std::string> texts);

}  // namespace tributary
