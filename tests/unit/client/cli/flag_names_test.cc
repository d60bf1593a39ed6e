#include "client/cli/flag_names.h"

#include <vector>

#include "gtest/gtest.h"
#include "policy/policy_registry.h"

namespace tributary {
namespace {

TEST(FlagNamesTest, FieldsOfARequestAreNamedAsTheirFlags) {
  EXPECT_EQ(NameFlags("window_tokens 10 is less than block_tokens 16; raise window_tokens"),
            "--window-tokens 10 is less than --block-tokens 16; raise --window-tokens");
  EXPECT_EQ(NameFlags("continue_request_id 'chat_tokens': max_context_tokens"),
            "--continue 'chat_tokens': --keep-context-tokens");
  EXPECT_EQ(NameFlags("keep.max_context_tokens is 9 without a lease; state keep.lease_ns, too"),
            "--keep-context-tokens is 9 without a lease; state --keep-s, too");
  EXPECT_EQ(NameFlags("my_window_tokens --window-tokens window_tokens.txt"),
            "my_window_tokens --window-tokens window_tokens.txt");
  EXPECT_EQ(NameFlags(""), "");
  EXPECT_EQ(NameFlags("no command 'top_k'; the client's top_k"), "no command 'top_k'; the client's --top-k");
}

TEST(FlagNamesTest, ParametersOfEveryPolicyAreNamedAsTheirFlags) {
  EXPECT_EQ(NameFlags("keep_min 65 is more than block_tokens 64"), "--keep-min 65 is more than --block-tokens 64");
  for (const ParameterColumn& column : AllParameters()) {
    EXPECT_EQ(NameFlags(std::string(column.row->name) + " is 7"), FlagOf(*column.row) + " is 7");
  }
  const absl::Status named = NameFlags(absl::NotFoundError("dense_heads names 9:0"));
  EXPECT_EQ(named, absl::NotFoundError("--dense-heads names 9:0"));
  EXPECT_TRUE(NameFlags(absl::OkStatus()).ok());
}

TEST(FlagNamesTest, TheNearestWordIsMeant) {
  const std::vector<std::string> known = {"--prompt", "--prompt-file", "--top-k", "--top-p"};
  EXPECT_EQ(Nearest("--promt", known), "--prompt");
  EXPECT_EQ(Nearest("--prompt_file", known), "--prompt-file");
  EXPECT_EQ(Nearest("--frobnicate-everything", known), "");
}

}  // namespace
}  // namespace tributary
