#include "client/cli/model_dir.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

TEST(ModelDirTest, WhatIsMissingIsNamed) {
  const TempDir dir;
  EXPECT_THAT(std::string(CheckModelDir("/nonexistent/model").message()), HasSubstr("no model folder '/nonexistent/"));
  EXPECT_THAT(std::string(CheckModelDir(dir.path()).message()), HasSubstr("no config.json"));
  WriteFile(dir / "config.json", "{}");
  EXPECT_TRUE(CheckModelDir(dir.path()).ok());
}

TEST(ModelDirTest, GgufIsToldHowItIsConverted) {
  const TempDir dir;
  WriteFile(dir / "x.gguf", "GGUF");
  for (const std::string& path : {dir.path().string(), (dir / "x.gguf").string(), std::string("models/absent.gguf"),
                                  std::string("/absent/y.gguf")}) {
    EXPECT_THAT(std::string(CheckModelDir(path).message()), HasSubstr("convert the weights to safetensors")) << path;
  }
}

TEST(ModelDirTest, AModelsNameOnTheHubIsToldHowItBecomesAFolder) {
  EXPECT_THAT(std::string(CheckModelDir("Qwen/Qwen2-0.5B").message()),
              HasSubstr("hf download Qwen/Qwen2-0.5B --local-dir models/Qwen/Qwen2-0.5B"));
  EXPECT_NE(HubFolder("one/probe"), HubFolder("another/probe"));
  EXPECT_TRUE(LooksLikeHubId("someone/model.v2-GGUF"));
  for (const char* no_id : {"Qwen", "a/b/c", "/abs", "../x", "a b/c", "a/", "'; rm/x", "models/x.gguf"}) {
    EXPECT_FALSE(LooksLikeHubId(no_id)) << no_id;
  }
}

}  // namespace
}  // namespace tributary
