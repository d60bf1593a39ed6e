#include "client/eval/haystack.h"

#include <algorithm>

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// Fewer tokens than asked for by so many are as good as all.
constexpr size_t kMissingTokens = 4;
constexpr int kMaxRounds = 8;

// The offset behind the first blank or line end at or after `offset`; `offset` when none is near.
size_t SnapToGap(std::string_view text, size_t offset) {
  const size_t gap = text.substr(offset, kSnapTokens).find_first_of(" \n");
  return gap == std::string_view::npos ? offset : offset + gap + 1;
}

void AppendWithoutEnd(std::string_view piece, std::string& text) {
  const size_t last = piece.find_last_not_of(" \n");
  text += piece.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

}  // namespace

size_t SourceText::ByteOf(size_t token) const {
  if (token >= num_tokens()) return text_.size();
  return tokens_.begins.empty() ? token : tokens_.begins[token];
}

absl::StatusOr<size_t> PlantedTokens(TextCodec& codec, std::string_view sentence) {
  TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, codec.Encode(sentence));
  return tokens.size() + 2;
}

absl::StatusOr<Haystack> Plant(TextCodec& codec, const SourceText& source, size_t begin_token, size_t length_tokens,
                               std::vector<PlantedSentence>& planted) {
  Haystack haystack{.text = codec.chat().before, .tokens = PromptPrefix(codec)};
  TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<uint32_t> opening, codec.Encode(haystack.text));
  const size_t prefix_tokens = haystack.tokens.size();
  size_t taken = prefix_tokens + opening.size();
  for (const PlantedSentence& p : planted) {
    TRIBUTARY_ASSIGN_OR_RETURN(const size_t tokens, PlantedTokens(codec, p.sentence));
    taken += tokens;
  }
  if (taken > length_tokens) {
    return absl::InvalidArgumentError(
        fmt::format("{} sentences take {} tokens, and there is room for {}", planted.size(), taken, length_tokens));
  }
  const size_t room = length_tokens - taken;
  // A snap stays within the room, so that no sentence is cut off at the end.
  const double span = room > kSnapTokens ? static_cast<double>(room - kSnapTokens) : 0;
  const std::string_view text = source.text();
  size_t last = source.ByteOf(begin_token);
  for (PlantedSentence& p : planted) {
    const size_t wished = std::max(last, source.ByteOf(begin_token + static_cast<size_t>(p.depth * span)));
    const size_t at = std::max(last, std::min(source.ByteOf(begin_token + room), SnapToGap(text, wished)));
    AppendWithoutEnd(text.substr(last, at - last), haystack.text);
    haystack.text += "\n";
    p.begin = static_cast<uint32_t>(haystack.text.size());
    haystack.text += p.sentence + "\n";
    last = at;
  }
  // What is left is filled from the source, as far as the tokens of the whole then allow.
  const size_t planted_bytes = haystack.text.size();
  size_t end_token = begin_token + room;
  for (int round = 0; round < kMaxRounds; ++round) {
    const size_t end = std::max(last, source.ByteOf(end_token));
    haystack.text.resize(planted_bytes);
    haystack.text += text.substr(last, end - last);
    TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, codec.Encode(haystack.text));
    const size_t count = prefix_tokens + tokens.size();
    const bool is_enough = count == length_tokens || end == text.size() ||
                           (round > 0 && !codec.is_bytes() && count + kMissingTokens >= length_tokens);
    if (count <= length_tokens && is_enough) {
      haystack.tokens.insert(haystack.tokens.end(), tokens.begin(), tokens.end());
      return haystack;
    }
    end_token += length_tokens;
    end_token -= std::min(count, end_token - begin_token);
  }
  return absl::InvalidArgumentError(
      fmt::format("no text of {} tokens comes of {} sentences and the source at token {}; use another --seed",
                  length_tokens, planted.size(), begin_token));
}

}  // namespace tributary
