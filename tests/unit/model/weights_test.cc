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

// gpt-oss: all experts in one tensor, [in][out], gate and up in turns.
TEST_F(WeightsTest, ExpertsAreCutOutOfTensorsOfAll) {
  RandomModelOptions options;
  options.model_type = "gpt_oss";
  options.num_layers = 1;
  options.attention_bias = true;
  StoredTensors tensors = RandomModelTensors(options);
  const uint64_t experts = 3, hidden = options.hidden_size, intermediate = 70;
  const auto add = [&](const std::string& name, std::vector<uint64_t> shape) {
    uint64_t count = 1;
    for (const uint64_t size : shape) count *= size;
    StoredTensor& tensor = tensors["model.layers.0." + name] = {std::move(shape), std::vector<float>(count)};
    for (uint64_t i = 0; i < count; ++i) tensor.values[i] = static_cast<float>(i);
  };
  for (const char* name : {"gate_proj", "up_proj", "down_proj"}) {
    tensors.erase(fmt::format("model.layers.0.mlp.{}.weight", name));
  }
  add("self_attn.sinks", {options.num_q_heads});
  add("mlp.router.weight", {experts, hidden});
  add("mlp.router.bias", {experts});
  add("mlp.experts.gate_up_proj", {experts, hidden, 2 * intermediate});
  add("mlp.experts.gate_up_proj_bias", {experts, 2 * intermediate});
  add("mlp.experts.down_proj", {experts, intermediate, hidden});
  add("mlp.experts.down_proj_bias", {experts, hidden});
  nlohmann::json config = RandomModelConfig(options);
  config["num_local_experts"] = experts;
  config["intermediate_size"] = intermediate;
  WriteFile(dir_ / "config.json", config.dump());
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    WriteFile(dir_ / "model.safetensors", SafetensorsBytes(tensors, dtype));
    const auto weights = LoadModelWeights(dir_.path());
    ASSERT_TRUE(weights.ok()) << weights.status();
    const LayerWeights& layer = (*weights)->layers[0];
    EXPECT_EQ(layer.sink_logits->num_elements(), options.num_q_heads);
    ASSERT_EQ(layer.experts.size(), experts);
    const auto rounded = [&](uint64_t value) {
      const auto f32 = static_cast<float>(value);
      return dtype == DType::kF32 ? f32 : ToFloat(FromFloat<bf16_t>(f32));
    };
    for (uint64_t e = 0; e < experts; ++e) {
      const ExpertWeights& expert = layer.experts[e];
      ASSERT_EQ(expert.gate->shape, (std::vector<uint64_t>{intermediate, hidden}));
      ASSERT_EQ(expert.down->shape, (std::vector<uint64_t>{hidden, intermediate}));
      const std::vector<float> gate = *ReadF32(*expert.gate), up = *ReadF32(*expert.up), down = *ReadF32(*expert.down);
      const std::vector<float> gate_bias = *ReadF32(*expert.gate_bias), up_bias = *ReadF32(*expert.up_bias);
      for (uint64_t i = 0; i < intermediate; ++i) {
        for (uint64_t h = 0; h < hidden; ++h) {
          const uint64_t at = (e * hidden + h) * 2 * intermediate + 2 * i;
          ASSERT_EQ(gate[i * hidden + h], rounded(at));
          ASSERT_EQ(up[i * hidden + h], rounded(at + 1));
          ASSERT_EQ(down[h * intermediate + i], rounded((e * intermediate + i) * hidden + h));
        }
        ASSERT_EQ(gate_bias[i], rounded((e * intermediate + i) * 2));
        ASSERT_EQ(up_bias[i], rounded((e * intermediate + i) * 2 + 1));
      }
      EXPECT_EQ((*ReadF32(*expert.down_bias))[1], rounded(e * hidden + 1));
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
