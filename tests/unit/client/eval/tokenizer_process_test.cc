#include "client/eval/tokenizer_process.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Speaks as tools/tokenizer.py does, without its packages: a token per character, and begins by the bytes.
constexpr const char* kScript = R"(
import json, sys
print(json.dumps({"prefix": [7], "chat": {"before": "<u>", "answer": "</u>", "next": "<n>"}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "decode" in request:
        print(json.dumps({"text": "".join(map(chr, request["decode"]))}), flush=True)
    elif request["encode"] == "die":
        sys.exit(3)
    elif request["encode"] == "fail":
        print(json.dumps({"error": "no such\u0007 text"}), flush=True)
    else:
        begins, at = [], 0
        for c in request["encode"]:
            begins.append(at)
            at += len(c.encode())
        print(json.dumps({"tokens": [ord(c) for c in request["encode"]], "begins": begins}), flush=True)
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
  const auto codec = MakeTokenizerProcess({.folder = "m", .script = Script(kScript)});
  ASSERT_TRUE(codec.ok()) << codec.status();
  EXPECT_THAT((*codec)->prefix(), ElementsAre(7));
  EXPECT_EQ((*codec)->chat().next, "<n>");
  const auto encoded = (*codec)->EncodeWithBegins("a\n\"é!");
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_THAT(encoded->tokens, ElementsAre('a', '\n', '"', 0xe9, '!'));
  EXPECT_THAT(encoded->begins, ElementsAre(0, 1, 2, 3, 5));
  EXPECT_EQ(*(*codec)->Decode(encoded->tokens), "a\n\"é!");
  // Longer than what a socket takes at once, both ways.
  const std::string text(3'000'000, 'x');
  EXPECT_EQ((*codec)->Encode(text)->size(), text.size());
}

TEST_F(TokenizerProcessTest, ErrorsAreToldAndOthersGoOn) {
  const auto codec = MakeTokenizerProcess({.folder = "m", .script = Script(kScript)});
  ASSERT_TRUE(codec.ok()) << codec.status();
  EXPECT_EQ(std::string((*codec)->Encode("fail").status().message()), "no such\\x07 text");
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
  EXPECT_THAT(std::string(codec.status().message()),
              HasSubstr("tokenizer.json; give token ids with --text-tokens-file"));
}

}  // namespace
}  // namespace tributary
