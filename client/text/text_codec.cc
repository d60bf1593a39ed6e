#include "client/text/text_codec.h"

#include <filesystem>

#include "client/text/tokenizer_process.h"
#include "model/byte_text.h"

namespace tributary {
namespace {

class ByteCodec : public TextCodec {
 public:
  bool is_bytes() const override { return true; }
  const ChatFrame& chat() const override { return chat_; }
  bool has_chat_template() const override { return false; }
  const std::vector<uint32_t>& prefix() const override { return prefix_; }
  absl::StatusOr<TokenizedText> EncodeWithBegins(std::string_view text) override {
    return TokenizedText{TokensFromBytes(text), {}};
  }
  absl::StatusOr<std::vector<uint32_t>> Encode(std::string_view text) override { return TokensFromBytes(text); }
  absl::StatusOr<std::vector<uint32_t>> EncodePrompt(std::string_view text) override { return TokensFromBytes(text); }
  absl::StatusOr<std::string> Decode(std::span<const uint32_t> tokens) override { return BytesFromTokens(tokens); }
  absl::StatusOr<ChatPrompt> EncodeChat(std::span<const ChatMessage> messages, bool may_continue) override {
    std::string text;
    for (const ChatMessage& message : messages) text += message.content + "\n";
    const bool continues = may_continue && !seen_.empty() && text.starts_with(seen_);
    ChatPrompt prompt{TokensFromBytes(continues ? text.substr(seen_.size()) : text), continues};
    seen_ = std::move(text);
    return prompt;
  }
  absl::StatusOr<std::string> AddToAnswer(std::span<const uint32_t> tokens) override {
    std::string text = BytesFromTokens(tokens);
    seen_ += text;
    return text;
  }
  absl::StatusOr<std::string> EndAnswer() override { return std::string(); }

 private:
  const ChatFrame chat_{};
  const std::vector<uint32_t> prefix_{};
  std::string seen_;  // the chat's text that the last prompt and its answer stand for
};

bool HasTokenizer(const std::filesystem::path& folder) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(folder / "tokenizer.json", ignored) ||
         std::filesystem::is_regular_file(folder / "tokenizer.model", ignored);
}

}  // namespace

std::vector<uint32_t> PromptPrefix(const TextCodec& codec) {
  return codec.chat().empty() ? codec.prefix() : std::vector<uint32_t>();
}

std::unique_ptr<TextCodec> MakeByteCodec() { return std::make_unique<ByteCodec>(); }

std::string TokenizerFolder(const std::string& tokenizer_dir, const std::string& model_dir) {
  if (!tokenizer_dir.empty()) return tokenizer_dir;
  return !model_dir.empty() && HasTokenizer(model_dir) ? model_dir : std::string();
}

absl::StatusOr<std::unique_ptr<TextCodec>> MakeTextCodec(const TextCodecOptions& options) {
  const std::string folder = TokenizerFolder(options.tokenizer_dir, options.model_dir);
  if (folder.empty()) return MakeByteCodec();
  return MakeTokenizerProcess({.folder = folder, .python = options.python, .with_frame = options.with_frame});
}

}  // namespace tributary
