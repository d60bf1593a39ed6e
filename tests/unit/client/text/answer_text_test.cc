#include "client/text/answer_text.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/byte_text.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;

TEST(AnswerTextTest, TokensBecomeTextUpToAStopString) {
  const auto codec = MakeByteCodec();
  AnswerText answer(codec.get(), {"ND."});
  EXPECT_EQ(*answer.Add(TokensFromBytes("the E")), "the E");
  EXPECT_EQ(*answer.Add(TokensFromBytes("N")), "");
  EXPECT_EQ(answer.stopped_by(), "");
  EXPECT_EQ(*answer.Add(TokensFromBytes("D. more")), "");
  EXPECT_EQ(answer.stopped_by(), "ND.");
  EXPECT_EQ(*answer.End(), "");
  EXPECT_EQ(answer.text(), "the E");
}

TEST(AnswerTextTest, TheEndGivesOutWhatWasHeld) {
  const auto codec = MakeByteCodec();
  AnswerText answer(codec.get(), {"ab"});
  EXPECT_EQ(*answer.Add(TokensFromBytes("xa")), "x");
  EXPECT_EQ(*answer.End(), "a");
  EXPECT_EQ(answer.text(), "xa");
}

TEST(ByteCodecTest, AChatIsLinesAndGoesOnBehindItsAnswer) {
  const auto codec = MakeByteCodec();
  const std::vector<ChatMessage> first = {{"system", "be brief"}, {"user", "hi"}};
  const std::vector<ChatMessage> second = {
      {"system", "be brief"}, {"user", "hi"}, {"assistant", "ho"}, {"user", "more"}};
  ChatPrompt prompt = *codec->EncodeChat(first, true);
  EXPECT_FALSE(prompt.continues);
  EXPECT_EQ(BytesFromTokens(prompt.tokens), "be brief\nhi\n");
  EXPECT_EQ(*codec->AddToAnswer(TokensFromBytes("ho")), "ho");
  prompt = *codec->EncodeChat(second, true);
  EXPECT_TRUE(prompt.continues);
  EXPECT_EQ(BytesFromTokens(prompt.tokens), "\nmore\n");
  prompt = *codec->EncodeChat(second, false);
  EXPECT_FALSE(prompt.continues);
  EXPECT_EQ(BytesFromTokens(prompt.tokens), "be brief\nhi\nho\nmore\n");
}

TEST(TokenizerFolderTest, IsTheOneGivenOrTheModelsIfItHasATokenizer) {
  const TempDir dir;
  const std::string model = dir.path();
  EXPECT_EQ(TokenizerFolder("", ""), "");
  EXPECT_EQ(TokenizerFolder("", model), "");
  EXPECT_EQ(TokenizerFolder("other", model), "other");
  WriteFile(dir / "tokenizer.json", "{}");
  EXPECT_EQ(TokenizerFolder("", model), model);
  EXPECT_EQ(TokenizerFolder("other", model), "other");
}

}  // namespace
}  // namespace tributary
