#include "client/api/request_builder.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RequestBuilderTest : public ::testing::Test {
 protected:
  ~RequestBuilderTest() override { std::filesystem::remove(path_); }
  std::string Write(const std::string& text) {
    std::ofstream(path_, std::ios::binary) << text;
    return path_;
  }
  const std::string path_ = std::filesystem::temp_directory_path() / ("request_builder_" + std::to_string(getpid()));
};

TEST_F(RequestBuilderTest, PromptFileIsTakenByteForByte) {
  RequestOptions options;
  options.prompt_file = Write(std::string("a\0\xff\n", 4));
  const auto request = BuildGenerateRequest(options, 256);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->prompt_tokens(), ElementsAre('a', 0, 255, '\n'));
}

TEST_F(RequestBuilderTest, PlacementAndSamplingReachTheRequest) {
  RequestOptions options;
  options.prompt = "x";
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
  const auto request = BuildGenerateRequest(options, 256);
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

TEST_F(RequestBuilderTest, ATurnNeedsNoPrompt) {
  RequestOptions options;
  EXPECT_FALSE(BuildGenerateRequest(options, 256).ok());
  options.continue_request_id = "chat";
  options.keep_s = 0.25;
  const auto request = BuildGenerateRequest(options, 1000);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->prompt_tokens_size(), 0);
  EXPECT_EQ(request->continue_request_id(), "chat");
  EXPECT_EQ(request->keep().lease_ns(), 250'000'000);
}

TEST_F(RequestBuilderTest, DefaultsAreLeftToTheCoordinator) {
  RequestOptions options;
  options.prompt = "x";
  const auto request = BuildGenerateRequest(options, 256);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->placement().window_tokens(), 0);
  EXPECT_FALSE(request->placement().has_sink_tokens());
  EXPECT_EQ(request->placement().kv_dtype(), v1::DTYPE_UNSET);
}

TEST_F(RequestBuilderTest, TextNeedsAByteVocabularyAndIdsDoNot) {
  RequestOptions text;
  text.prompt = "x";
  const auto refused = BuildGenerateRequest(text, 128256);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("--prompt-tokens-file"));

  RequestOptions ids;
  ids.prompt_tokens_file = Write("128000 5\n7\n");
  const auto request = BuildGenerateRequest(ids, 128256);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->prompt_tokens(), ElementsAre(128000, 5, 7));
}

TEST_F(RequestBuilderTest, BadIdsAreNamed) {
  for (const char* text : {"1 2 x3", "1 2 -3", "1 2 3.5", "1 2 99999999999"}) {
    SCOPED_TRACE(text);
    const auto tokens = ParseTokenIds(text);
    ASSERT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(tokens.status().message()), HasSubstr("token 3"));
  }
}

TEST_F(RequestBuilderTest, EmptyMissingAndUnreadablePromptsAreErrors) {
  RequestOptions options;
  options.prompt_file = Write("");
  EXPECT_EQ(BuildGenerateRequest(options, 256).status().code(), absl::StatusCode::kInvalidArgument);
  options.prompt_file = "/nonexistent/prompt";
  const auto missing = BuildGenerateRequest(options, 256);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/nonexistent/prompt"));
  options.prompt_file = "/tmp";
  EXPECT_EQ(BuildGenerateRequest(options, 256).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RequestBuilderTest, InputFilesAreCheckedOnTheirOwn) {
  RequestOptions options;
  EXPECT_TRUE(CheckInputFiles(options).ok());
  options.prompt_file = "-";
  options.text_file = Write("text");
  EXPECT_TRUE(CheckInputFiles(options).ok());
  options.prompt_tokens_file = "/nonexistent/ids";
  EXPECT_EQ(CheckInputFiles(options).code(), absl::StatusCode::kNotFound);
}

TEST_F(RequestBuilderTest, ScoreForcesWhatIsNotPrefilled) {
  RequestOptions options;
  options.text_file = Write("abcdef");
  options.prefill_tokens = 4;
  const auto request = BuildScoreRequest(options, 256);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->prompt_tokens(), ElementsAre('a', 'b', 'c', 'd'));
  EXPECT_THAT(request->forced_tokens(), ElementsAre('e', 'f'));
  EXPECT_EQ(request->max_tokens(), 2);
  EXPECT_TRUE(request->ignore_eos());

  options.prefill_tokens = 6;
  EXPECT_EQ(BuildScoreRequest(options, 256).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RequestBuilderTest, ScoreTakesTokenIdsOfAnyVocabulary) {
  RequestOptions options;
  options.text_file = Write("abc");
  options.prefill_tokens = 2;
  EXPECT_THAT(std::string(BuildScoreRequest(options, 49'152).status().message()), HasSubstr("--tokens-file FILE"));
  options.text_file.clear();
  options.tokens_file = Write("1000 2000\n30000");
  const auto request = BuildScoreRequest(options, 49'152);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->prompt_tokens(), ElementsAre(1000, 2000));
  EXPECT_THAT(request->forced_tokens(), ElementsAre(30'000));
  options.tokens_file = Write("1 two 3");
  EXPECT_THAT(std::string(BuildScoreRequest(options, 49'152).status().message()), HasSubstr("'two', not an id"));
}

}  // namespace
}  // namespace tributary
