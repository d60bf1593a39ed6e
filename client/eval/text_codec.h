// Text to token ids and back, as a model's vocabulary has it. Everything that an evaluation asks is made of text by one
// of these.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/eval/eval_options.h"

namespace tributary {

// What a chat template puts around one user's turn and the answer; all empty: the model is no chat model, or is to be
// asked without its template.
struct ChatFrame {
  std::string before;  // the user's first words
  std::string answer;  // between the user's words and the answer
  std::string next;    // between an answer and the user's next words

  bool empty() const { return answer.empty(); }
};

// Where the tokens of a text begin, in bytes. Tokens that share a character begin where it does.
struct TokenizedText {
  std::vector<uint32_t> tokens;
  std::vector<uint32_t> begins;  // one per token; empty: token i begins at byte i
};

// Thread-compatible.
class TextCodec {
 public:
  virtual ~TextCodec() = default;

  virtual bool is_bytes() const = 0;
  virtual const ChatFrame& chat() const = 0;
  // What a text begins with, such as a token that says so. Not in what Encode() returns. A chat template writes such
  // tokens itself: see PromptPrefix().
  virtual const std::vector<uint32_t>& prefix() const = 0;
  // INVALID_ARGUMENT for text that the vocabulary cannot have (a tokenizer's must be UTF-8); UNAVAILABLE if the
  // tokenizer has gone.
  virtual absl::StatusOr<TokenizedText> EncodeWithBegins(std::string_view text) = 0;
  virtual absl::StatusOr<std::vector<uint32_t>> Encode(std::string_view text) = 0;
  // Up to the first token that stands for no text, such as the end of a turn.
  virtual absl::StatusOr<std::string> Decode(std::span<const uint32_t> tokens) = 0;
};

// What the prompt of a task begins with, before the chat's opening.
std::vector<uint32_t> PromptPrefix(const TextCodec& codec);

// A vocabulary of the 256 bytes: any text, no prefix, no chat.
std::unique_ptr<TextCodec> MakeByteCodec();

// The tokenizer of --tokenizer, or of the model's folder if it has one; bytes otherwise. Errors as of
// MakeTokenizerProcess() (client/eval/tokenizer_process.h).
absl::StatusOr<std::unique_ptr<TextCodec>> MakeTextCodec(const EvalOptions& options);

}  // namespace tributary
