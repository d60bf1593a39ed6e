// Sentences planted in a stretch of a text, at places and to a length that are counted in tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/text/text_codec.h"

namespace tributary {

// A text that prompts are cut from.
class SourceText {
 public:
  SourceText() = default;
  SourceText(std::string text, TokenizedText tokens) : text_(std::move(text)), tokens_(std::move(tokens)) {}

  const std::string& text() const { return text_; }
  const std::vector<uint32_t>& tokens() const { return tokens_.tokens; }
  size_t num_tokens() const { return tokens_.tokens.size(); }
  // Where a token begins, in bytes; the end of the text for those behind the last.
  size_t ByteOf(size_t token) const;

 private:
  std::string text_;
  TokenizedText tokens_;
};

struct PlantedSentence {
  std::string sentence;
  double depth = 0;    // wished, as a share of the text
  uint32_t begin = 0;  // of the sentence, in bytes of the result; filled by Plant()
};

struct Haystack {
  std::string text;
  std::vector<uint32_t> tokens;  // PromptPrefix() and those of the text
};

// How far a planting place may be moved on to a gap between words, in bytes and so in tokens.
inline constexpr size_t kSnapTokens = 64;

// The tokens of a sentence with the line ends around it.
absl::StatusOr<size_t> PlantedTokens(TextCodec& codec, std::string_view sentence);

// The source from `begin_token` on with the sentences on lines of their own, behind the codec's prefix and opening of a
// chat: exactly `length_tokens` if tokens are bytes; else at most, and a few less if need be, for what two pieces have
// together is not the sum of both. REQUIRES: ascending depths, and kSnapTokens more tokens in the source than asked
// for. INVALID_ARGUMENT if the sentences do not fit.
absl::StatusOr<Haystack> Plant(TextCodec& codec, const SourceText& source, size_t begin_token, size_t length_tokens,
                               std::vector<PlantedSentence>& planted);

}  // namespace tributary
