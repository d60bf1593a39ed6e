#include "client/cli/flag_names.h"

#include <vector>

#include "gtest/gtest.h"

namespace tributary {
namespace {

TEST(FlagNamesTest, FieldsOfARequestAreNamedAsTheirFlags) {
  EXPECT_EQ(NameFlags("window_tokens 10 is less than block_tokens 16; raise window_tokens"),
            "--window-tokens 10 is less than --block-tokens 16; raise --window-tokens");
  EXPECT_EQ(NameFlags("continue_request_id 'chat_tokens': max_context_tokens"),
            "--continue 'chat_tokens': --keep-context-tokens");
  EXPECT_EQ(NameFlags("my_window_tokens --window-tokens window_tokens.txt"),
            "my_window_tokens --window-tokens window_tokens.txt");
  EXPECT_EQ(NameFlags(""), "");
}

TEST(FlagNamesTest, TheNearestWordIsMeant) {
  const std::vector<std::string> known = {"--prompt", "--prompt-file", "--top-k", "--top-p"};
  EXPECT_EQ(Nearest("--promt", known), "--prompt");
  EXPECT_EQ(Nearest("--prompt_file", known), "--prompt-file");
  EXPECT_EQ(Nearest("--frobnicate-everything", known), "");
}

}  // namespace
}  // namespace tributary
