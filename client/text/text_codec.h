// Text to token ids and back, as a model's vocabulary has it: of whole texts, of answers while they come, of chats.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

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

struct ChatMessage {
  std::string role;  // system, user, assistant
  std::string content;
};

struct ChatPrompt {
  std::vector<uint32_t> tokens;
  bool continues = false;  // `tokens` go behind the last prompt and its answer; else they are the whole chat
};

// Thread-compatible. Encoding is INVALID_ARGUMENT for text that the vocabulary cannot have (a tokenizer's must be
// UTF-8) and messages that the chat template refuses; everything is UNAVAILABLE if the tokenizer has gone.
class TextCodec {
 public:
  virtual ~TextCodec() = default;

  virtual bool is_bytes() const = 0;
  // Of a codec that was made to tell it (TokenizerOptions::with_frame).
  virtual const ChatFrame& chat() const = 0;
  virtual bool has_chat_template() const = 0;
  // What a text begins with, such as a token that says so. Not in what Encode() returns. A chat template writes such
  // tokens itself: see PromptPrefix().
  virtual const std::vector<uint32_t>& prefix() const = 0;
  virtual absl::StatusOr<TokenizedText> EncodeWithBegins(std::string_view text) = 0;
  virtual absl::StatusOr<std::vector<uint32_t>> Encode(std::string_view text) = 0;
  // With the tokens that the model wants around a text.
  virtual absl::StatusOr<std::vector<uint32_t>> EncodePrompt(std::string_view text) = 0;
  // Up to the first token that stands for no text, such as the end of a turn.
  virtual absl::StatusOr<std::string> Decode(std::span<const uint32_t> tokens) = 0;

  // The prompt for the next answer, by the chat template; without one, each message is a line. `may_continue`: the
  // sequence of the last prompt, and of the answer that AddToAnswer() has heard of since, is still there.
  virtual absl::StatusOr<ChatPrompt> EncodeChat(std::span<const ChatMessage> messages, bool may_continue) = 0;
  // What has become certain of an answer's text with these tokens: never half a character.
  virtual absl::StatusOr<std::string> AddToAnswer(std::span<const uint32_t> tokens) = 0;
  // The rest of it. The next answer can begin.
  virtual absl::StatusOr<std::string> EndAnswer() = 0;
};

// What the prompt of a task begins with, before the chat's opening.
std::vector<uint32_t> PromptPrefix(const TextCodec& codec);

// A vocabulary of the 256 bytes: any text, no prefix, no chat template; text is given out byte by byte.
std::unique_ptr<TextCodec> MakeByteCodec();

// Which folder has the tokenizer, "" if bytes are the tokens: `tokenizer_dir`, or `model_dir` if there is one in it.
// Neither needs to be given.
std::string TokenizerFolder(const std::string& tokenizer_dir, const std::string& model_dir);

struct TextCodecOptions {
  std::string tokenizer_dir;  // "": that of the model, if it has a tokenizer
  std::string model_dir;
  std::string python;       // "": DefaultPython() (client/text/tokenizer_process.h)
  bool with_frame = false;  // ask for the ChatFrame
};

// The tokenizer of the folder, or bytes. Errors as of MakeTokenizerProcess() (client/text/tokenizer_process.h).
absl::StatusOr<std::unique_ptr<TextCodec>> MakeTextCodec(const TextCodecOptions& options);

}  // namespace tributary
