// The tokenizer of a model's folder: one child process, tools/tokenizer.py, which reads a line of JSON with a text and
// writes one with its tokens. It lives as long as the codec, so that Python and tokenizer start once per command.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/text/text_codec.h"

namespace tributary {

struct TokenizerOptions {
  std::string folder;       // with tokenizer.json, and tokenizer_config.json for a chat template
  std::string python;       // a path, or a name of PATH; "": DefaultPython()
  bool with_frame = false;  // tell what the chat template puts around the turns, if the folder has one
  std::string script;       // empty: tributary-tokenizer.py in the folder of this binary
};

// The environment that ./dev setup python makes, if this binary lies in that build folder; else python3.
std::string DefaultPython();

// The child ends with the codec, and with the thread that calls this, however busy it is. UNAVAILABLE with what to do:
// no such Python, no package `tokenizers` there, a folder without a tokenizer or with a broken one, a chat template
// that cannot be used.
absl::StatusOr<std::unique_ptr<TextCodec>> MakeTokenizerProcess(const TokenizerOptions& options);

}  // namespace tributary
