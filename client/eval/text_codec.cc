#include "client/eval/text_codec.h"

#include <filesystem>

#include "client/eval/tokenizer_process.h"
#include "model/byte_text.h"

namespace tributary {
namespace {

class ByteCodec : public TextCodec {
 public:
  bool is_bytes() const override { return true; }
  const ChatFrame& chat() const override { return chat_; }
  const std::vector<uint32_t>& prefix() const override { return prefix_; }
  absl::StatusOr<TokenizedText> EncodeWithBegins(std::string_view text) override {
    return TokenizedText{TokensFromBytes(text), {}};
  }
  absl::StatusOr<std::vector<uint32_t>> Encode(std::string_view text) override { return TokensFromBytes(text); }
  absl::StatusOr<std::string> Decode(std::span<const uint32_t> tokens) override { return BytesFromTokens(tokens); }

 private:
  const ChatFrame chat_;
  const std::vector<uint32_t> prefix_;
};

}  // namespace

std::vector<uint32_t> PromptPrefix(const TextCodec& codec) {
  return codec.chat().empty() ? codec.prefix() : std::vector<uint32_t>();
}

std::unique_ptr<TextCodec> MakeByteCodec() { return std::make_unique<ByteCodec>(); }

absl::StatusOr<std::unique_ptr<TextCodec>> MakeTextCodec(const EvalOptions& options) {
  std::string folder = options.tokenizer_dir;
  std::error_code ignored;
  if (folder.empty() && !options.cluster.model_dir.empty() &&
      std::filesystem::exists(std::filesystem::path(options.cluster.model_dir) / "tokenizer.json", ignored)) {
    folder = options.cluster.model_dir;
  }
  if (folder.empty()) return MakeByteCodec();
  return MakeTokenizerProcess(
      {.folder = folder, .python = options.python, .use_chat_template = options.chat_template == "auto"});
}

}  // namespace tributary
