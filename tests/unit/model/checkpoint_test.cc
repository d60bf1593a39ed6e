#include "model/checkpoint.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/random_model.h"

namespace tributary {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class CheckpointTest : public ::testing::Test {
 protected:
  void WriteShard(const char* name, const StoredTensors& tensors) {
    WriteFile(dir_ / name, SafetensorsBytes(tensors, DType::kF32));
  }
  void WriteIndex(const nlohmann::json& weight_map) {
    WriteFile(dir_ / "model.safetensors.index.json", nlohmann::json{{"weight_map", weight_map}}.dump());
  }
  std::string Refusal() { return std::string(Checkpoint::Open(dir_.path()).status().message()); }

  TempDir dir_;
};

TEST_F(CheckpointTest, FindsTensorsInOneFileOrInShards) {
  WriteShard("one.safetensors", {{"a", {{1}, {1}}}, {"b", {{1}, {2}}}});
  WriteShard("two.safetensors", {{"c", {{1}, {3}}}});
  WriteIndex({{"a", "one.safetensors"}, {"b", "one.safetensors"}, {"c", "two.safetensors"}});
  const auto sharded = Checkpoint::Open(dir_.path());
  ASSERT_TRUE(sharded.ok()) << sharded.status();
  EXPECT_EQ((*ReadF32(*sharded->Find("c")->tensor))[0], 3);
  EXPECT_EQ(sharded->Find("b")->file->path().filename(), "one.safetensors");
  EXPECT_TRUE(absl::IsNotFound(sharded->Find("d").status()));

  WriteShard("model.safetensors", {{"a", {{1}, {9}}}});
  const auto single = Checkpoint::Open(dir_.path());
  ASSERT_TRUE(single.ok()) << single.status();
  EXPECT_EQ((*ReadF32(*single->Find("a")->tensor))[0], 9);
}

// An overlay replaces a tensor by the index alone: the shard's own copy is stale.
TEST_F(CheckpointTest, TheIndexSaysWhichOfTwoCopiesCounts) {
  WriteShard("base.safetensors", {{"a", {{1}, {1}}}, {"b", {{1}, {2}}}});
  WriteShard("overlay.safetensors", {{"b", {{1}, {3}}}});
  WriteIndex({{"a", "base.safetensors"}, {"b", "overlay.safetensors"}});
  const auto checkpoint = Checkpoint::Open(dir_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*ReadF32(*checkpoint->Find("b")->tensor))[0], 3);
  EXPECT_EQ(checkpoint->tensors().size(), 2u);
}

TEST_F(CheckpointTest, SaysWhatIsMissing) {
  EXPECT_THAT(Refusal(), HasSubstr("neither model.safetensors nor model.safetensors.index.json"));
  WriteFile(dir_ / "weights.gguf", "GGUF");
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("but weights.gguf"), HasSubstr("convert the weights to safetensors")));
  WriteShard("model-00001-of-00002.safetensors", {{"a", {{1}, {1}}}});
  WriteShard("model-00002-of-00002.safetensors", {{"b", {{1}, {1}}}});
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("model-00001-of-00002.safetensors and 1 more"), HasSubstr("is missing")));
  WriteIndex({{"a", "gone.safetensors"}});
  EXPECT_THAT(Refusal(), HasSubstr("gone.safetensors: cannot open"));
  WriteFile(dir_ / "model.safetensors.index.json", "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("index.json: this is a Git LFS pointer"), HasSubstr("git lfs pull")));
}

TEST_F(CheckpointTest, RefusesShardNamesThatLeaveTheFolder) {
  for (const char* name : {"../one.safetensors", "/etc/one.safetensors", "sub/one.safetensors", "..", "one.bin",
                           ".safetensors", "a\\b.safetensors"}) {
    WriteIndex({{"a", name}});
    EXPECT_THAT(Refusal(), HasSubstr("must be a .safetensors file in the same folder")) << name;
  }
  WriteIndex({{"a", 3}});
  EXPECT_THAT(Refusal(), HasSubstr("is said to be in 3"));
}

TEST_F(CheckpointTest, RefusesAnIndexThatDisagreesWithItsShards) {
  WriteShard("one.safetensors", {{"a", {{1}, {1}}}});
  WriteIndex({{"b", "one.safetensors"}});
  EXPECT_THAT(Refusal(), HasSubstr("tensor 'b' should be in 'one.safetensors'"));
  WriteShard("two.safetensors", {{"a", {{1}, {1}}}, {"b", {{1}, {1}}}, {"c", {{1}, {1}}}});
  WriteIndex({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  EXPECT_THAT(Refusal(), HasSubstr("tensor 'c' is in 'two.safetensors', but the index does not list it"));
  WriteIndex(nlohmann::json::array());
  EXPECT_THAT(Refusal(), HasSubstr("'weight_map' must be an object"));
}

}  // namespace
}  // namespace tributary
