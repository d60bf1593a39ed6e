#include "client/api/request_builder.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<uint32_t> kTokens = {'x'};

TEST(RequestBuilderTest, PlacementAndSamplingReachTheRequest) {
  RequestOptions options;
  options.window_tokens = 1024;
  options.sink_tokens = 0;
  options.block_tokens = 16;
  options.kv_dtype = "bf16";
  options.remote_k_dtype = "int8";
  options.shard_cut = "heads";
  options.temperature = 0.5f;
  options.seed = 9;
  options.max_tokens = 5;
  options.top_logprobs = 12;
  const auto request = BuildGenerateRequest(options, kTokens);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->placement().window_tokens(), 1024);
  EXPECT_TRUE(request->placement().has_sink_tokens());
  EXPECT_EQ(request->placement().block_tokens(), 16);
  EXPECT_EQ(request->placement().kv_dtype(), v1::DTYPE_BF16);
  EXPECT_EQ(request->placement().remote_k_dtype(), v1::DTYPE_INT8);
  EXPECT_EQ(request->placement().remote_v_dtype(), v1::DTYPE_UNSET);
  EXPECT_EQ(request->placement().cut(), v1::Placement::CUT_HEADS);
  EXPECT_EQ(request->sampling().seed(), 9);
  EXPECT_EQ(request->max_tokens(), 5);
  EXPECT_EQ(request->top_logprobs(), 12);
}

TEST(RequestBuilderTest, ATurnNeedsNoPrompt) {
  RequestOptions options;
  EXPECT_FALSE(BuildGenerateRequest(options, {}).ok());
  options.continue_request_id = "chat";
  options.keep_s = 0.25;
  const auto request = BuildGenerateRequest(options, {});
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->prompt_tokens_size(), 0);
  EXPECT_EQ(request->continue_request_id(), "chat");
  EXPECT_EQ(request->keep().lease_ns(), 250'000'000);
}

TEST(RequestBuilderTest, DefaultsAreLeftToTheCoordinator) {
  RequestOptions options;
  const auto request = BuildGenerateRequest(options, kTokens);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->placement().window_tokens(), 0);
  EXPECT_FALSE(request->placement().has_sink_tokens());
  EXPECT_EQ(request->placement().kv_dtype(), v1::DTYPE_UNSET);
}

TEST(RequestBuilderTest, ScoreForcesWhatIsNotPrefilled) {
  RequestOptions options;
  const std::vector<uint32_t> tokens = {'a', 'b', 'c', 'd', 'e', 'f'};
  options.text_file = "novel.txt";
  options.prefill_tokens = 4;
  const auto request = BuildScoreRequest(options, tokens);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->prompt_tokens(), ElementsAre('a', 'b', 'c', 'd'));
  EXPECT_THAT(request->forced_tokens(), ElementsAre('e', 'f'));
  EXPECT_EQ(request->max_tokens(), 2);
  EXPECT_TRUE(request->ignore_eos());

  options.prefill_tokens = 6;
  EXPECT_THAT(std::string(BuildScoreRequest(options, tokens).status().message()),
              HasSubstr("'novel.txt' has 6 tokens and --prefill-tokens takes 6"));
  EXPECT_EQ(CheckByteVocab(256, "do that").code(), absl::StatusCode::kOk);
  EXPECT_THAT(std::string(CheckByteVocab(49'152, "do that").message()), HasSubstr("49152 tokens"));
}

}  // namespace
}  // namespace tributary
