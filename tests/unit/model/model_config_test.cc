#include "model/model_config.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/random_model.h"

namespace tributary {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ModelConfigTest : public ::testing::Test {
 protected:
  absl::StatusOr<ModelConfig> Load(const json& config) {
    WriteFile(dir_ / "config.json", config.dump());
    return LoadModelConfig(dir_.path());
  }
  static json Base(const char* family = "llama") {
    RandomModelOptions options;
    options.model_type = family;
    return RandomModelConfig(options);
  }
  static json With(json config, const char* field, const json& value) {
    config[field] = value;
    return config;
  }
  static json Without(json config, const char* field) {
    config.erase(field);
    return config;
  }

  TempDir dir_;
};

TEST_F(ModelConfigTest, ReadsEveryField) {
  json object = Base("qwen3");
  object["torch_dtype"] = "bfloat16";
  const auto config = Load(object);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, ModelFamily::kQwen3);
  EXPECT_EQ(config->num_layers, 2u);
  EXPECT_EQ(config->hidden_size, 48u);
  EXPECT_EQ(config->intermediate_size, 80u);
  EXPECT_EQ(config->vocab_size, 61u);
  EXPECT_EQ(config->attention, (AttentionShape{4, 2, 16}));
  EXPECT_EQ(config->max_position_embeddings, 4096u);
  EXPECT_EQ(config->rope_theta, 5000.0);
  EXPECT_EQ(config->rms_norm_eps, 1e-5);
  EXPECT_TRUE(config->has_qk_norm);
  EXPECT_FALSE(config->has_qkv_bias);
  EXPECT_FALSE(config->rope_scaling.has_value());
  EXPECT_EQ(config->stored_dtype, DType::kBf16);
  EXPECT_DOUBLE_EQ(config->softmax_scale(), 0.25);
}

TEST_F(ModelConfigTest, DefaultsFollowHuggingFace) {
  json llama2 = Base();
  for (const char* field : {"num_key_value_heads", "head_dim", "rope_theta", "attention_bias", "eos_token_id",
                            "tie_word_embeddings", "hidden_act"}) {
    llama2.erase(field);
  }
  const auto config = Load(llama2);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->attention, (AttentionShape{4, 4, 12}));
  EXPECT_EQ(config->rope_theta, 10000.0);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_TRUE(Load(With(Base("mistral"), "head_dim", nullptr)).ok());
  EXPECT_TRUE(Load(Base("qwen2"))->has_qkv_bias);
  EXPECT_FALSE(Load(Base("qwen2"))->has_o_bias);
  EXPECT_EQ(Load(Without(Base("qwen3"), "head_dim"))->attention.head_dim, 128u);
}

TEST_F(ModelConfigTest, AcceptsBothSpellingsOfRope) {
  const json scaling = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}};
  json with_theta = scaling;
  with_theta["rope_theta"] = 5000.0;
  const auto old_style = Load(With(Base(), "rope_scaling", scaling));
  const auto new_style = Load(With(Without(Base(), "rope_theta"), "rope_parameters", with_theta));
  ASSERT_TRUE(old_style.ok()) << old_style.status();
  ASSERT_TRUE(new_style.ok()) << new_style.status();
  for (const ModelConfig* config : {&*old_style, &*new_style}) {
    ASSERT_TRUE(config->rope_scaling.has_value());
    EXPECT_EQ(config->rope_theta, 5000.0);
    EXPECT_EQ(config->rope_scaling->factor, 8.0);
    EXPECT_EQ(config->rope_scaling->original_max_position_embeddings, 8192u);
  }
  const auto plain =
      Load(With(Without(Base(), "rope_theta"), "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7.0}}));
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->rope_theta, 7.0);
  EXPECT_FALSE(plain->rope_scaling.has_value());
  EXPECT_EQ(Load(With(Without(Base(), "torch_dtype"), "dtype", "float16"))->stored_dtype, DType::kF16);
}

TEST_F(ModelConfigTest, EosTokensOfBothFiles) {
  EXPECT_THAT(Load(Base())->eos_token_ids, IsEmpty());
  EXPECT_THAT(Load(With(Base(), "eos_token_id", 7))->eos_token_ids, ElementsAre(7));
  EXPECT_THAT(Load(With(Base(), "eos_token_id", {9, 7, 9}))->eos_token_ids, ElementsAre(7, 9));
  WriteFile(dir_ / "generation_config.json", R"({"eos_token_id": [3, 9]})");
  EXPECT_THAT(Load(With(Base(), "eos_token_id", 9))->eos_token_ids, ElementsAre(3, 9));
  WriteFile(dir_ / "generation_config.json", R"({"eos_token_id": [61]})");
  EXPECT_THAT(std::string(Load(Base()).status().message()),
              AllOf(HasSubstr("generation_config.json"), HasSubstr("below vocab_size 61")));
  WriteFile(dir_ / "generation_config.json", "{");
  EXPECT_FALSE(Load(Base()).ok());
}

TEST_F(ModelConfigTest, SlidingWindowOnlyWhereItHidesNothing) {
  EXPECT_TRUE(Load(With(Base("mistral"), "sliding_window", nullptr)).ok());
  EXPECT_TRUE(Load(With(Base("mistral"), "sliding_window", 4096)).ok());
  EXPECT_TRUE(absl::IsUnimplemented(Load(With(Base("mistral"), "sliding_window", 4095)).status()));
  EXPECT_TRUE(Load(With(With(Base("qwen2"), "sliding_window", 64), "use_sliding_window", false)).ok());
  EXPECT_TRUE(absl::IsUnimplemented(
      Load(With(With(Base("qwen2"), "sliding_window", 64), "use_sliding_window", true)).status()));
  EXPECT_TRUE(Load(With(Base("qwen2"), "layer_types", {"full_attention", "full_attention"})).ok());
  EXPECT_TRUE(absl::IsUnimplemented(
      Load(With(Base("qwen2"), "layer_types", {"full_attention", "sliding_attention"})).status()));
}

struct BadField {
  const char* field;
  json value;
};

TEST_F(ModelConfigTest, RefusesBadValuesNamingFileFieldAndValue) {
  const BadField cases[] = {
      {"num_hidden_layers", 0},
      {"num_hidden_layers", 513},
      {"num_hidden_layers", -1},
      {"num_hidden_layers", "6"},
      {"num_hidden_layers", 2.5},
      {"hidden_size", 65537},
      {"intermediate_size", nullptr},
      {"vocab_size", 1048577},
      {"num_attention_heads", 1025},
      {"num_key_value_heads", 3},
      {"head_dim", 257},
      {"head_dim", 15},
      {"rope_theta", 0},
      {"rope_theta", "1e4"},
      {"rms_norm_eps", -1e-6},
      {"tie_word_embeddings", "no"},
      {"eos_token_id", 61},
      {"eos_token_id", -1},
      {"eos_token_id", "</s>"},
      {"rope_scaling", 3},
      {"architectures", json::array()},
      {"max_position_embeddings", 0},
  };
  for (const BadField& bad : cases) {
    const auto config = Load(With(Base(), bad.field, bad.value));
    EXPECT_TRUE(absl::IsInvalidArgument(config.status())) << bad.field << bad.value << config.status();
    EXPECT_THAT(std::string(config.status().message()), AllOf(HasSubstr("config.json"), HasSubstr(bad.field)));
    if (!bad.value.is_null()) {
      EXPECT_THAT(std::string(config.status().message()), HasSubstr(bad.value.dump()));
    }
  }
}

TEST_F(ModelConfigTest, RefusesWhatIsNotServed) {
  const BadField cases[] = {
      {"model_type", "gpt2"},
      {"model_type", nullptr},
      {"architectures", {"LlamaForSequenceClassification"}},
      {"hidden_act", "gelu"},
      {"mlp_bias", true},
      {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
      {"rope_scaling", {{"factor", 2.0}}},
      {"rope_parameters", {{"rope_type", "yarn"}}},
      {"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}},
      {"quantization_config", {{"bits", 4}}},
      {"torch_dtype", "float8"},
  };
  for (const BadField& bad : cases) {
    const auto config = Load(With(Base(), bad.field, bad.value));
    EXPECT_TRUE(absl::IsUnimplemented(config.status())) << bad.field << bad.value << config.status();
    EXPECT_THAT(std::string(config.status().message()), AllOf(HasSubstr("config.json"), HasSubstr("supported")));
  }
}

TEST_F(ModelConfigTest, RefusesBrokenFiles) {
  EXPECT_TRUE(absl::IsNotFound(LoadModelConfig(dir_ / "nowhere").status()));
  for (const char* text : {"", "{", "[]", "{\"a\":1,\"a\":2}", "nonsense"}) {
    WriteFile(dir_ / "config.json", text);
    EXPECT_TRUE(absl::IsInvalidArgument(LoadModelConfig(dir_.path()).status())) << text;
  }
}

TEST_F(ModelConfigTest, RopeFrequencies) {
  ModelConfig config;
  config.attention = {1, 1, 8};
  config.rope_theta = 10000.0;
  const std::vector<double> plain = RopeInverseFrequencies(config);
  ASSERT_EQ(plain.size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(plain[static_cast<size_t>(i)], std::pow(10.0, -i), 1e-7);
  // Wavelengths are 6.28, 62.8, 628, 6283; with 256 original positions those below 64 stay, those
  // above 256 stretch.
  config.rope_scaling = Llama3RopeScaling{8.0, 1.0, 4.0, 256};
  const std::vector<double> scaled = RopeInverseFrequencies(config);
  EXPECT_EQ(scaled[0], plain[0]);
  EXPECT_EQ(scaled[1], plain[1]);
  EXPECT_NEAR(scaled[2], 0.01 / 8, 1e-8);
  EXPECT_NEAR(scaled[3], 0.001 / 8, 1e-9);
  config.rope_scaling->original_max_position_embeddings = 1024;  // wavelength 628 lies between 256 and 1024
  const double smooth = (1024 / (2 * M_PI / 0.01) - 1.0) / 3.0;
  EXPECT_NEAR(RopeInverseFrequencies(config)[2], (1 - smooth) * 0.01 / 8 + smooth * 0.01, 1e-8);
}

}  // namespace
}  // namespace tributary
