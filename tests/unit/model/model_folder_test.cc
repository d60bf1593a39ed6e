#include "model/model_folder.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/model_config.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Message(const std::filesystem::path& path) { return std::string(CheckModelFolder(path).message()); }

TEST(ModelFolderTest, AFolderWithConfigIsTaken) {
  const TempDir dir;
  EXPECT_THAT(Message(dir.path()), HasSubstr("no config.json"));
  EXPECT_TRUE(absl::IsNotFound(CheckModelFolder(dir / "absent")));
  WriteFile(dir / "config.json", "{}");
  WriteFile(dir / "x.gguf", "GGUF");
  EXPECT_TRUE(CheckModelFolder(dir.path()).ok());
}

TEST(ModelFolderTest, GgufIsToldHowItIsConverted) {
  const TempDir dir;
  WriteFile(dir / "b.gguf", "GGUF");
  WriteFile(dir / "a.gguf", "GGUF");
  EXPECT_THAT(Message(dir.path()), AllOf(HasSubstr("no config.json, but a.gguf"), HasSubstr(kConvertWeights)));
  EXPECT_THAT(Message(dir / "b.gguf"), AllOf(HasSubstr("b.gguf' is a GGUF file"), HasSubstr(kConvertWeights)));
  // Whoever loads the model says the same.
  EXPECT_EQ(LoadModelConfig(dir / "b.gguf").status(), CheckModelFolder(dir / "b.gguf"));
}

TEST(ModelFolderTest, AFileIsNoFolder) {
  const TempDir dir;
  WriteFile(dir / "model.safetensors", "x");
  EXPECT_THAT(Message(dir / "model.safetensors"), HasSubstr("model.safetensors' is a file; a model is a folder"));
}

TEST(ModelFolderTest, AutoGptqIsNamed) {
  const TempDir dir;
  WriteFile(dir / "quantize_config.json", "{}");
  EXPECT_THAT(Message(dir.path()), HasSubstr("GPTQ"));
  WriteFile(dir / "config.json", "{}");
  EXPECT_TRUE(absl::IsUnimplemented(LoadModelConfig(dir.path()).status()));
  EXPECT_THAT(Message(dir.path()), AllOf(HasSubstr("GPTQ"), HasSubstr("dequantize it")));
}

}  // namespace
}  // namespace tributary
