#include "model/weights.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/random_model.h"

namespace tributary {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class WeightsTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::shared_ptr<const ModelWeights>> Load(const RandomModelOptions& options,
                                                           const StoredTensors& tensors) {
    WriteFile(dir_ / "config.json", RandomModelConfig(options).dump());
    WriteFile(dir_ / "model.safetensors", SafetensorsBytes(tensors, options.stored_dtype));
    return LoadModelWeights(dir_.path());
  }
  std::string Refusal(const RandomModelOptions& options, const StoredTensors& tensors) {
    return std::string(Load(options, tensors).status().message());
  }

  TempDir dir_;
};

TEST_F(WeightsTest, LoadsEachFamily) {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    for (const bool tied : {false, true}) {
      RandomModelOptions options;
      options.model_type = family;
      options.tied = tied;
      options.stored_dtype = DType::kBf16;
      const auto weights = Load(options, RandomModelTensors(options));
      ASSERT_TRUE(weights.ok()) << family << ": " << weights.status();
      ASSERT_EQ((*weights)->layers.size(), 2u);
      const LayerWeights& layer = (*weights)->layers[1];
      EXPECT_EQ(layer.q_bias != nullptr, std::string_view(family) == "qwen2");
      EXPECT_EQ(layer.q_norm != nullptr, std::string_view(family) == "qwen3");
      EXPECT_EQ(layer.o_bias, nullptr);
      EXPECT_EQ(layer.down->name, "model.layers.1.mlp.down_proj.weight");
      EXPECT_EQ((*weights)->lm_head == (*weights)->embedding, tied);
    }
  }
}

// Hugging Face takes the head that the file has; only an equal one is the embedding.
TEST_F(WeightsTest, AHeadOfItsOwnIsUsedAlthoughTheConfigCallsItTied) {
  RandomModelOptions options;
  options.tied = true;
  StoredTensors tensors = RandomModelTensors(options);
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"];
  const auto same = Load(options, tensors);
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ((*same)->lm_head, (*same)->embedding);
  EXPECT_TRUE((*same)->config.tie_word_embeddings);
  tensors["lm_head.weight"].values[5] += 1;
  const auto own = Load(options, tensors);
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ((*own)->lm_head->name, "lm_head.weight");
  EXPECT_FALSE((*own)->config.tie_word_embeddings);
  tensors["lm_head.weight"].shape = {1};
  tensors["lm_head.weight"].values = {1};
  EXPECT_THAT(Refusal(options, tensors), HasSubstr("tensor 'lm_head.weight' is F32 [1]"));
}

TEST_F(WeightsTest, AttentionBiasAsksForFourBiases) {
  RandomModelOptions options;
  options.attention_bias = true;
  const auto weights = Load(options, RandomModelTensors(options));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_NE((*weights)->layers[0].o_bias, nullptr);
  EXPECT_NE((*weights)->layers[0].v_bias, nullptr);
}

TEST_F(WeightsTest, NamesTheMissingTensor) {
  const RandomModelOptions options;
  for (const auto& [name, unused] : RandomModelTensors(options)) {
    StoredTensors tensors = RandomModelTensors(options);
    tensors.erase(name);
    EXPECT_THAT(Refusal(options, tensors), AllOf(HasSubstr(name), HasSubstr("missing"))) << name;
  }
}

TEST_F(WeightsTest, NamesTheTensorOfAnotherShape) {
  const RandomModelOptions options;
  for (const auto& [name, unused] : RandomModelTensors(options)) {
    StoredTensors tensors = RandomModelTensors(options);
    tensors[name].shape.push_back(1);
    EXPECT_THAT(Refusal(options, tensors),
                AllOf(HasSubstr("model.safetensors"), HasSubstr(name), HasSubstr("config.json implies [")))
        << name;
  }
}

TEST_F(WeightsTest, RefusesTensorsThatItWouldIgnore) {
  const RandomModelOptions options;
  for (const char* name : {"model.layers.2.input_layernorm.weight", "model.layers.0.self_attn.q_proj.bias"}) {
    StoredTensors tensors = RandomModelTensors(options);
    tensors[name] = {{1}, {0}};
    EXPECT_THAT(Refusal(options, tensors), AllOf(HasSubstr(name), HasSubstr("has no place")));
  }
  StoredTensors tensors = RandomModelTensors(options);
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {{1}, {0}};
  EXPECT_EQ(Refusal(options, tensors), "");
}

}  // namespace
}  // namespace tributary
