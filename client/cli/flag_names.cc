#include "client/cli/flag_names.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "policy/policy_registry.h"

namespace tributary {
namespace {

struct FieldFlag {
  std::string_view field;
  std::string_view flag;
};

// Fields of GenerateRequest and of what is in it (proto/tributary/v1/coordinator.proto) that a flag sets.
constexpr FieldFlag kFlags[] = {
    {"window_tokens", "--window-tokens"},
    {"sink_tokens", "--sink-tokens"},
    {"block_tokens", "--block-tokens"},
    {"kv_dtype", "--kv-dtype"},
    {"remote_k_dtype", "--remote-k-dtype"},
    {"remote_v_dtype", "--remote-v-dtype"},
    {"max_nodes", "--max-nodes"},
    {"all_resident", "--all-resident"},
    {"max_tokens", "--max-tokens"},
    {"top_k", "--top-k"},
    {"top_p", "--top-p"},
    {"min_p", "--min-p"},
    {"presence_penalty", "--presence-penalty"},
    {"frequency_penalty", "--frequency-penalty"},
    {"repetition_penalty", "--repetition-penalty"},
    {"logit_bias", "--logit-bias"},
    {"top_logprobs", "--top-logprobs"},
    {"ignore_eos", "--ignore-eos"},
    {"request_id", "--request-id"},
    {"continue_request_id", "--continue"},
    {"lease_ns", "--keep-s"},
    {"keep.lease_ns", "--keep-s"},
    {"max_stall", "--max-stall-s"},
    {"max_context_tokens", "--keep-context-tokens"},
    {"keep.max_context_tokens", "--keep-context-tokens"},
    {"report_attention_heads", "--report-attention-heads"},
};

bool IsWord(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.'; }

// The flag that sets a field of a request or a policy's parameter; the word itself if it is neither.
std::string FlagFor(std::string_view word) {
  for (const FieldFlag& flag : kFlags) {
    if (flag.field == word) return std::string(flag.flag);
  }
  for (const ParameterColumn& column : AllParameters()) {
    if (column.row->name == word) return FlagOf(*column.row);
  }
  return std::string(word);
}

// Letters to change, add or leave out.
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t changed = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string NameFlags(std::string_view message) {
  std::string named;
  for (size_t begin = 0; begin < message.size();) {
    size_t end = begin;
    while (end < message.size() && IsWord(message[end])) ++end;
    const std::string_view word = message.substr(begin, end - begin);
    const bool is_quoted = begin > 0 && message[begin - 1] == '\'' && end < message.size() && message[end] == '\'';
    named += is_quoted ? std::string(word) : FlagFor(word);
    if (end < message.size()) named += message[end];
    begin = end + 1;
  }
  return named;
}

absl::Status NameFlags(const absl::Status& status) {
  return status.ok() ? status : absl::Status(status.code(), NameFlags(std::string(status.message())));
}

std::string Nearest(std::string_view word, std::span<const std::string> known) {
  std::string nearest;
  size_t least = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : known) {
    if (const size_t distance = Distance(word, candidate); distance < least) {
      least = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

}  // namespace tributary
