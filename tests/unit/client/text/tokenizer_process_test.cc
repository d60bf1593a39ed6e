#include "client/text/tokenizer_process.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/byte_text.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Speaks as python/src/tributary/text/bridge.py does, without its packages: a token per character.
constexpr const char* kScript = R"(
import json, sys
frame = {"before": "<u>", "answer": "</u>", "next": "<n>"} if sys.argv[-1] == "auto" else None
print(json.dumps({"prefix": [7], "has_template": True, "frame": frame}), flush=True)
seen = ""
for line in sys.stdin:
    request = json.loads(line)
    if "decode" in request:
        reply = {"text": "".join(map(chr, request["decode"]))}
    elif "add" in request:
        reply = {"text": "".join(map(chr, request["add"]))}
        seen += reply["text"]
    elif "flush" in request:
        reply = {"text": "rest"}
    elif "chat" in request:
        text = "".join(f"{m['role']}:{m['content']}|" for m in request["chat"])
        continues = request["continue"] and text.startswith(seen)
        reply = {"tokens": [ord(c) for c in text[len(seen) if continues else 0:]], "continues": continues}
        seen = text
    elif request["encode"] == "die":
        sys.exit(3)
    elif request["encode"] in ("fail", "refuse"):
        reply = {"error": "no such\u0007 text", "invalid": request["encode"] == "refuse"}
    else:
        begins, at = [], 0
        for c in request["encode"]:
            begins.append(at)
            at += len(c.encode())
        reply = {"tokens": [7] * request.get("special", False) + [ord(c) for c in request["encode"]]}
        if request.get("begins"):
            reply["begins"] = begins
    print(json.dumps(reply), flush=True)
)";

class TokenizerProcessTest : public ::testing::Test {
 protected:
  std::string Script(const std::string& text) {
    const std::string path = dir_ / "script.py";
    std::ofstream(path) << text;
    return path;
  }
  TempDir dir_;
};

TEST_F(TokenizerProcessTest, TextBecomesTokensAndBack) {
  const auto codec = MakeTokenizerProcess({.folder = "m", .with_frame = true, .script = Script(kScript)});
  ASSERT_TRUE(codec.ok()) << codec.status();
  EXPECT_THAT((*codec)->prefix(), ElementsAre(7));
  EXPECT_EQ((*codec)->chat().next, "<n>");
  const auto encoded = (*codec)->EncodeWithBegins("a\n\"é!");
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_THAT(encoded->tokens, ElementsAre('a', '\n', '"', 0xe9, '!'));
  EXPECT_THAT(encoded->begins, ElementsAre(0, 1, 2, 3, 5));
  EXPECT_THAT(*(*codec)->Encode("ab"), ElementsAre('a', 'b'));
  EXPECT_THAT(*(*codec)->EncodePrompt("ab"), ElementsAre(7, 'a', 'b'));
  EXPECT_EQ(*(*codec)->Decode(encoded->tokens), "a\n\"é!");
  // Longer than what a socket takes at once, both ways.
  const std::string text(3'000'000, 'x');
  EXPECT_EQ((*codec)->Encode(text)->size(), text.size());
}

TEST_F(TokenizerProcessTest, ChatsAndAnswersGoThrough) {
  const auto codec = MakeTokenizerProcess({.folder = "m", .script = Script(kScript)});
  ASSERT_TRUE(codec.ok()) << codec.status();
  EXPECT_TRUE((*codec)->has_chat_template());
  EXPECT_TRUE((*codec)->chat().empty());
  std::vector<ChatMessage> messages = {{"user", "\"é"}};
  auto prompt = (*codec)->EncodeChat(messages, true);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->tokens.size(), 8u);
  EXPECT_EQ(*(*codec)->AddToAnswer(std::vector<uint32_t>{'b'}), "b");
  EXPECT_EQ(*(*codec)->EndAnswer(), "rest");
  prompt = (*codec)->EncodeChat(messages, true);
  EXPECT_FALSE(prompt->continues) << "the answer is not in it";
  messages.push_back({"user", "c"});
  prompt = (*codec)->EncodeChat(messages, true);
  EXPECT_TRUE(prompt->continues);
  EXPECT_EQ(BytesFromTokens(prompt->tokens), "user:c|");
  messages.back().content = "bad \xff";
  EXPECT_EQ((*codec)->EncodeChat(messages, true).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(TokenizerProcessTest, ErrorsAreToldAndOthersGoOn) {
  const auto codec = MakeTokenizerProcess({.folder = "m", .script = Script(kScript)});
  ASSERT_TRUE(codec.ok()) << codec.status();
  EXPECT_EQ(std::string((*codec)->Encode("fail").status().message()), "no such\\x07 text");
  EXPECT_EQ((*codec)->Encode("fail").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ((*codec)->Encode("refuse").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*codec)->Encode("bad \xff byte").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE((*codec)->Encode("good").ok());
  EXPECT_EQ((*codec)->Encode("die").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string((*codec)->Encode("dead").status().message()), HasSubstr("has ended"));
}

TEST_F(TokenizerProcessTest, WhatIsMissingIsNamed) {
  EXPECT_THAT(std::string(MakeTokenizerProcess({.folder = "m", .script = "/nonexistent.py"}).status().message()),
              HasSubstr("cannot read '/nonexistent.py'"));
  EXPECT_THAT(
      std::string(
          MakeTokenizerProcess({.folder = "m", .python = "/no/python", .script = Script(kScript)}).status().message()),
      HasSubstr("--python"));
  // The real script says that the folder has no tokenizer before it needs any package.
  const auto codec = MakeTokenizerProcess({.folder = dir_.path(), .script = "tools/tokenizer.py"});
  EXPECT_THAT(std::string(codec.status().message()), HasSubstr("tokenizer.json; give token ids (--prompt-tokens-file"));
}

}  // namespace
}  // namespace tributary
