#include "client/api/request_input.h"

#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RequestInputTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& text) {
    const std::string path = dir_ / "input";
    WriteFile(path, text);
    return path;
  }
  TempDir dir_;
};

TEST_F(RequestInputTest, TextIsTakenByteForByte) {
  RequestOptions options;
  options.prompt_file = Write(std::string("a\0\xff\n", 4));
  const auto input = ReadRequestInput(options);
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_TRUE(input->is_text);
  EXPECT_EQ(input->text, std::string("a\0\xff\n", 4));
  options = {};
  options.text_file = Write("scored");
  EXPECT_EQ(ReadRequestInput(options)->text, "scored");
  options = {};
  options.prompt = "words";
  EXPECT_EQ(ReadRequestInput(options)->text, "words");
}

TEST_F(RequestInputTest, APipeIsReadOnceAndToItsEnd) {
  RequestOptions options;
  options.prompt_file = dir_ / "pipe";
  ASSERT_EQ(mkfifo(options.prompt_file.c_str(), 0600), 0);
  const std::string text(300'000, 'x');  // more than a pipe holds
  std::thread writer([&] { std::ofstream(options.prompt_file, std::ios::binary) << text; });
  const auto input = ReadRequestInput(options);
  writer.join();
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(input->text, text);
}

TEST_F(RequestInputTest, IdsStandBetweenBlanksOrAreJson) {
  for (const char* text : {"128000 5\n7\n", "[128000, 5,7]\n", "[128000,5,7]",
                           R"({"prompt_tokens":1,"tokens":[128000,5,7],"text":null,"nodes":[{"tokens":3}]})",
                           "{\n \"tokens\" : [128000, 5, 7]}"}) {
    SCOPED_TRACE(text);
    RequestOptions options;
    options.prompt_tokens_file = Write(text);
    const auto input = ReadRequestInput(options);
    ASSERT_TRUE(input.ok()) << input.status();
    EXPECT_FALSE(input->is_text);
    EXPECT_THAT(input->tokens, ElementsAre(128000, 5, 7));
  }
}

TEST_F(RequestInputTest, BadIdsAreNamed) {
  for (const char* text : {"1 2 x3", "1 2 -3", "1 2 3.5", "1 2 99999999999", "[1,2,x]", "[1, 2, -1]", "[1,2,]"}) {
    SCOPED_TRACE(text);
    const auto tokens = ParseTokenIds(text);
    ASSERT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(tokens.status().message()), HasSubstr("token 3"));
  }
  for (const char* text : {"{}", "[1,2", "{\"tokens\": 5}", "{\"tokens\"}", "[[1],[2]] x"}) {
    EXPECT_EQ(ParseTokenIds(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_TRUE(ParseTokenIds("[]")->empty());
}

TEST_F(RequestInputTest, EmptyMissingAndUnreadableInputIsAnError) {
  RequestOptions options;
  options.prompt_file = Write("");
  EXPECT_THAT(std::string(ReadRequestInput(options).status().message()), HasSubstr("the prompt is empty ("));
  options.prompt_file = "/nonexistent/prompt";
  const auto missing = ReadRequestInput(options);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/nonexistent/prompt"));
  options.prompt_file = dir_.path();
  EXPECT_THAT(std::string(ReadRequestInput(options).status().message()), HasSubstr("is a folder"));
  options.prompt_file = "/dev/zero";
  EXPECT_THAT(std::string(ReadRequestInput(options).status().message()), HasSubstr("more than"));
  options = {};
  options.continue_request_id = "chat";
  EXPECT_TRUE(ReadRequestInput(options).ok()) << "a continuation needs none";
}

}  // namespace
}  // namespace tributary
