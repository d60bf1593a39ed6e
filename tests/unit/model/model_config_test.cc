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
  EXPECT_EQ(config->ropes[0].theta, 5000.0);
  EXPECT_EQ(config->rms_norm_eps, 1e-5);
  EXPECT_EQ(config->qk_norm, QkNorm::kPerHead);
  EXPECT_FALSE(config->has_qkv_bias);
  EXPECT_EQ(config->ropes[0].type, RopeType::kDefault);
  EXPECT_EQ(config->stored_dtype, DType::kBf16);
  EXPECT_DOUBLE_EQ(config->softmax_scale, 0.25);
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
  EXPECT_EQ(config->ropes[0].theta, 10000.0);
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
    EXPECT_EQ(config->ropes[0].type, RopeType::kLlama3);
    EXPECT_EQ(config->ropes[0].theta, 5000.0);
    EXPECT_EQ(config->ropes[0].factor, 8.0);
    EXPECT_EQ(config->ropes[0].original_max_position_embeddings, 8192u);
  }
  const auto plain =
      Load(With(Without(Base(), "rope_theta"), "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7.0}}));
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->ropes[0].theta, 7.0);
  EXPECT_EQ(plain->ropes[0].type, RopeType::kDefault);
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

TEST_F(ModelConfigTest, WhichLayersSlide) {
  const auto windows = [&](const json& object) {
    const auto config = Load(object);
    EXPECT_TRUE(config.ok()) << config.status();
    std::vector<uint32_t> tokens;
    for (const LayerSpec& layer : config->layers) tokens.push_back(layer.sliding_window_tokens);
    return tokens;
  };
  const json mistral = Base("mistral");
  EXPECT_THAT(windows(With(mistral, "sliding_window", nullptr)), ElementsAre(0, 0));
  EXPECT_THAT(windows(With(mistral, "sliding_window", 4096)), ElementsAre(0, 0));  // as long as any context
  EXPECT_THAT(windows(With(mistral, "sliding_window", 64)), ElementsAre(64, 64));
  // An absent field means the class's default, as in the first files of Mistral.
  EXPECT_THAT(windows(With(mistral, "max_position_embeddings", 32768)), ElementsAre(4096, 4096));
  json qwen = With(Base("qwen2"), "sliding_window", 64);
  EXPECT_THAT(windows(qwen), ElementsAre(0, 0));
  qwen["use_sliding_window"] = true;
  EXPECT_THAT(windows(qwen), ElementsAre(0, 0));  // max_window_layers is 28 then
  EXPECT_THAT(windows(With(qwen, "max_window_layers", 2)), ElementsAre(0, 0));
  EXPECT_THAT(windows(With(qwen, "max_window_layers", 1)), ElementsAre(0, 64));
  EXPECT_THAT(windows(With(qwen, "max_window_layers", 0)), ElementsAre(64, 64));
  EXPECT_THAT(windows(With(qwen, "layer_types", {"sliding_attention", "full_attention"})), ElementsAre(64, 0));
  EXPECT_THAT(windows(With(Base("qwen2"), "layer_types", {"full_attention", "full_attention"})), ElementsAre(0, 0));
  EXPECT_TRUE(absl::IsUnimplemented(Load(With(qwen, "layer_types", {"full_attention", "chunked"})).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Load(With(qwen, "layer_types", {"full_attention"})).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
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
      {"rope_scaling", {{"type", "cubic"}, {"factor", 2.0}}},
      {"rope_scaling", {{"factor", 2.0}}},
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

TEST_F(ModelConfigTest, NamesAGitLfsPointer) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n";
  const auto expect_refusal = [&](const char* name) {
    const absl::Status status = LoadModelConfig(dir_.path()).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(name), HasSubstr("Git LFS pointer of 63 bytes"), HasSubstr("git lfs pull")));
  };
  WriteFile(dir_ / "config.json", pointer);
  expect_refusal("/config.json");
  ASSERT_TRUE(Load(Base()).ok());
  WriteFile(dir_ / "generation_config.json", pointer);
  expect_refusal("generation_config.json");
}

// What families leave out and do otherwise, as Hugging Face's config classes have it.
TEST_F(ModelConfigTest, FamiliesDifferInTheirFields) {
  const auto olmo2 = Load(Base("olmo2"));
  ASSERT_TRUE(olmo2.ok()) << olmo2.status();
  EXPECT_EQ(olmo2->norm_placement, NormPlacement::kAfter);
  EXPECT_EQ(olmo2->qk_norm, QkNorm::kWholeProjection);
  EXPECT_EQ(Load(Without(Base("olmo2"), "rms_norm_eps"))->rms_norm_eps, 1e-5);

  json granite = Base("granite");
  granite["embedding_multiplier"] = 12.0;
  granite["residual_multiplier"] = 0.25;
  granite["attention_multiplier"] = 0.125;
  granite["logits_scaling"] = 8.0;
  const auto scaled = Load(granite);
  ASSERT_TRUE(scaled.ok()) << scaled.status();
  EXPECT_EQ(scaled->embedding_scale, 12.0);
  EXPECT_EQ(scaled->residual_scale, 0.25);
  EXPECT_EQ(scaled->softmax_scale, 0.125);
  EXPECT_EQ(scaled->logits_scale, 0.125);
  EXPECT_EQ(Load(Base("granite"))->softmax_scale, 1.0);  // the class's default, not 1 / sqrt(head_dim)

  const auto smollm3 = Load(With(Base("smollm3"), "no_rope_layers", {1, 0}));
  ASSERT_TRUE(smollm3.ok()) << smollm3.status();
  EXPECT_EQ(smollm3->layers[0].rope, 0u);
  EXPECT_EQ(smollm3->layers[1].rope, kNoRope);
  const auto each_second = Load(With(Base("smollm3"), "no_rope_layer_interval", 2));
  EXPECT_EQ(each_second->layers[0].rope, 0u);
  EXPECT_EQ(each_second->layers[1].rope, kNoRope);
  EXPECT_EQ(Load(Without(Base("smollm3"), "rope_theta"))->ropes[0].theta, 2e6);

  EXPECT_TRUE(Load(Base("phi3"))->has_fused_qkv);
  EXPECT_TRUE(Load(Base("phi3"))->has_fused_gate_up);
}

TEST_F(ModelConfigTest, GptOss) {
  json gpt = Base("gpt_oss");
  gpt["num_local_experts"] = 4;
  gpt["sliding_window"] = 64;
  const auto config = Load(gpt);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->has_sink_logits);
  EXPECT_EQ(config->activation, Activation::kClampedSwiglu);
  EXPECT_EQ(config->moe.tensors, ExpertTensors::kTogether);
  EXPECT_TRUE(config->moe.has_bias);
  EXPECT_EQ(config->moe.experts_per_token, 4u);
  EXPECT_EQ(config->moe.intermediate_size, config->intermediate_size);
  EXPECT_TRUE(config->layers[0].is_moe && config->layers[1].is_moe);
  EXPECT_THAT(config->windowed_layers(), ElementsAre(0));
  // Without a word on it, RoPE is the family's; null is none.
  EXPECT_EQ(config->ropes[0].type, RopeType::kYarn);
  EXPECT_EQ(config->ropes[0].original_max_position_embeddings, 4096u);
  EXPECT_FALSE(config->ropes[0].truncate);
  EXPECT_EQ(Load(With(gpt, "rope_scaling", nullptr))->ropes[0].type, RopeType::kDefault);
  EXPECT_TRUE(Load(Without(gpt, "attention_bias"))->has_qkv_bias);
  EXPECT_TRUE(Load(Without(gpt, "attention_bias"))->has_o_bias);
  EXPECT_EQ(Load(Without(gpt, "sliding_window"))->layers[0].sliding_window_tokens, 128u);
  EXPECT_TRUE(absl::IsUnimplemented(Load(With(gpt, "swiglu_limit", 6.0)).status()));
  // As OpenAI publishes it: the message says what to do.
  EXPECT_THAT(std::string(Load(With(gpt, "quantization_config", {{"quant_method", "mxfp4"}})).status().message()),
              HasSubstr("dequantize"));
}

TEST_F(ModelConfigTest, AShareOfAHeadMayTurn) {
  const auto phi = Load(With(Base("phi3"), "partial_rotary_factor", 0.75));
  ASSERT_TRUE(phi.ok()) << phi.status();
  EXPECT_EQ(phi->rotary_dim, 12u);
  EXPECT_FALSE(phi->turns_neighbours);
  EXPECT_EQ(Load(Base("phi3"))->rotary_dim, 16u);
  // New files have it beside RoPE's other parameters.
  EXPECT_EQ(Load(With(Base("phi3"), "rope_parameters", {{"partial_rotary_factor", 0.5}}))->rotary_dim, 8u);
  const json six(std::vector<double>(6, 1.0));
  json longrope =
      With(Base("phi3"), "rope_scaling", {{"type", "longrope"}, {"short_factor", six}, {"long_factor", six}});
  longrope["partial_rotary_factor"] = 0.75;
  EXPECT_TRUE(Load(longrope).ok()) << Load(longrope).status();
  EXPECT_TRUE(absl::IsInvalidArgument(Load(Without(longrope, "partial_rotary_factor")).status()));
  for (const double bad : {0.7, 0.01, 1.25, 1e9}) {  // 11, 0, 20 and too many elements
    EXPECT_TRUE(absl::IsInvalidArgument(Load(With(Base("phi3"), "partial_rotary_factor", bad)).status())) << bad;
  }
  EXPECT_TRUE(absl::IsUnimplemented(Load(With(Base(), "partial_rotary_factor", 0.5)).status()));
  json two = With(Base("phi3"), "rope_parameters", {{"full_attention", {{"partial_rotary_factor", 0.5}}}});
  EXPECT_TRUE(absl::IsUnimplemented(Load(two).status()));
  for (const char* family : {"glm", "glm4"}) {
    const auto glm = Load(Base(family));
    ASSERT_TRUE(glm.ok()) << glm.status();
    EXPECT_EQ(glm->rotary_dim, 8u);
    EXPECT_TRUE(glm->turns_neighbours);
    EXPECT_TRUE(glm->has_fused_gate_up && !glm->has_fused_qkv);
    EXPECT_TRUE(Load(Without(Base(family), "attention_bias"))->has_qkv_bias);
    EXPECT_FALSE(Load(Without(Base(family), "attention_bias"))->has_o_bias);
    EXPECT_EQ(glm->norm_placement == NormPlacement::kBeforeAndAfter, std::string_view(family) == "glm4");
  }
}

TEST_F(ModelConfigTest, Gemma2CapsScoresAndLogits) {
  json gemma = Base("gemma2");
  gemma["num_hidden_layers"] = 3;
  gemma["sliding_window"] = 32;
  const auto config = Load(gemma);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->attention_soft_cap, 50.0);
  EXPECT_EQ(config->logits_soft_cap, 30.0);
  EXPECT_EQ(config->qk_norm, QkNorm::kNone);
  EXPECT_DOUBLE_EQ(config->softmax_scale, 1 / 16.0);
  EXPECT_THAT(config->windowed_layers(), ElementsAre(0, 2));
  EXPECT_EQ(Load(With(gemma, "attn_logit_softcapping", nullptr))->attention_soft_cap, 0.0);
  EXPECT_EQ(Load(With(gemma, "final_logit_softcapping", nullptr))->logits_soft_cap, 0.0);
  EXPECT_EQ(Load(With(gemma, "attn_logit_softcapping", 7.5))->attention_soft_cap, 7.5);
  for (const json& bad : {json(-1.0), json(0.0), json(1e-5), json(1e9), json("x")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Load(With(gemma, "attn_logit_softcapping", bad)).status())) << bad;
  }
}

TEST_F(ModelConfigTest, Experts) {
  json moe = Base("qwen3_moe");
  moe["num_experts"] = 6;
  moe["num_experts_per_tok"] = 2;
  moe["moe_intermediate_size"] = 24;
  moe["norm_topk_prob"] = true;
  const auto config = Load(moe);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->moe.num_experts, 6u);
  EXPECT_EQ(config->moe.experts_per_token, 2u);
  EXPECT_EQ(config->moe.intermediate_size, 24u);
  EXPECT_TRUE(config->moe.normalises_weights);
  EXPECT_TRUE(config->layers[0].is_moe && config->layers[1].is_moe);
  EXPECT_FALSE(Load(With(moe, "mlp_only_layers", {0}))->layers[0].is_moe);
  EXPECT_FALSE(Load(With(moe, "decoder_sparse_step", 2))->layers[0].is_moe);
  EXPECT_TRUE(Load(With(moe, "decoder_sparse_step", 2))->layers[1].is_moe);
  EXPECT_TRUE(absl::IsInvalidArgument(Load(With(moe, "num_experts_per_tok", 7)).status()));
  EXPECT_EQ(Load(Without(moe, "num_experts_per_tok"))->moe.experts_per_token, 6u);  // the default is 8
  json many = With(moe, "num_experts", 1024);
  many["num_hidden_layers"] = 65;
  EXPECT_TRUE(absl::IsInvalidArgument(Load(many).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Load(With(moe, "mlp_only_layers", {2})).status()));

  json mixtral = Base("mixtral");
  mixtral["num_local_experts"] = 4;
  const auto plain = Load(mixtral);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->moe.num_experts, 4u);
  EXPECT_EQ(plain->moe.experts_per_token, 2u);
  EXPECT_EQ(plain->moe.intermediate_size, plain->intermediate_size);
  EXPECT_EQ(plain->moe.tensors, ExpertTensors::kMixtral);
}

TEST_F(ModelConfigTest, GemmaTurnsItsWindowedLayersByAnotherBase) {
  json gemma = Base("gemma3_text");
  gemma["num_hidden_layers"] = 4;
  gemma["sliding_window"] = 32;
  gemma["sliding_window_pattern"] = 2;
  gemma["query_pre_attn_scalar"] = 64;
  gemma["rope_local_base_freq"] = 77.0;
  const auto config = Load(gemma);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->norm_weight_offset, 1.0);
  EXPECT_EQ(config->norm_placement, NormPlacement::kBeforeAndAfter);
  EXPECT_EQ(config->activation, Activation::kGeluTanh);
  EXPECT_DOUBLE_EQ(config->softmax_scale, 0.125);
  EXPECT_DOUBLE_EQ(config->embedding_scale, std::sqrt(48.0));
  for (uint32_t layer = 0; layer < 4; ++layer) {
    EXPECT_EQ(config->layers[layer].sliding_window_tokens, layer % 2 == 0 ? 32u : 0u) << layer;
    EXPECT_EQ(config->ropes.at(config->layers[layer].rope).theta, layer % 2 == 0 ? 77.0 : 5000.0) << layer;
  }
  // The kind of layer counts, also where its window hides nothing.
  for (const json& window : {json(4096), json(nullptr)}) {
    const auto wide = Load(With(gemma, "sliding_window", window));
    ASSERT_TRUE(wide.ok()) << wide.status();
    EXPECT_TRUE(wide->windowed_layers().empty());
    EXPECT_EQ(wide->ropes.at(wide->layers[0].rope).theta, 77.0);
    EXPECT_EQ(wide->ropes.at(wide->layers[1].rope).theta, 5000.0);
  }
  gemma["rope_parameters"] = {{"full_attention", {{"rope_theta", 9.0}}}, {"sliding_attention", {{"rope_theta", 8.0}}}};
  const auto nested = Load(gemma);
  ASSERT_TRUE(nested.ok()) << nested.status();
  EXPECT_EQ(nested->ropes.at(nested->layers[0].rope).theta, 8.0);
  EXPECT_EQ(nested->ropes.at(nested->layers[1].rope).theta, 9.0);
  EXPECT_TRUE(absl::IsUnimplemented(Load(With(gemma, "attn_logit_softcapping", 50.0)).status()));
}

TEST_F(ModelConfigTest, RefusesRopesThatGiveNoNumbers) {
  const json factors(std::vector<double>(8, 1.0));
  json phi =
      With(Base("phi3"), "rope_scaling", {{"type", "longrope"}, {"short_factor", factors}, {"long_factor", factors}});
  phi["original_max_position_embeddings"] = 1;
  EXPECT_THAT(std::string(Load(phi).status().message()), HasSubstr("give angles that are no numbers"));
  const json yarn = With(Base(), "rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}});
  EXPECT_TRUE(Load(yarn).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Load(With(yarn, "rope_theta", 1e-300)).status()));
}

TEST_F(ModelConfigTest, OfTwoRopeObjectsTheOldOneCounts) {
  json both = With(Base(), "rope_scaling", {{"rope_type", "linear"}, {"factor", 4.0}});
  both["rope_parameters"] = {{"rope_theta", 7.0}};
  const auto config = Load(both);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->ropes[0].type, RopeType::kLinear);
  EXPECT_EQ(config->ropes[0].theta, 5000.0);
}

TEST_F(ModelConfigTest, DynamicRopeIsMadeForLongerContexts) {
  EXPECT_EQ(Load(Base())->max_context_tokens(), 4096u);
  const json dynamic = With(Base(), "rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2.5}});
  EXPECT_EQ(Load(dynamic)->max_context_tokens(), 10240u);
}

// Configs that Hugging Face loads, and whose meaning is plain.
TEST_F(ModelConfigTest, AcceptsWhatIsPlain) {
  EXPECT_EQ(Load(With(Base(), "rope_parameters", {{"rope_theta", 7.0}}))->ropes[0].theta, 7.0);
  EXPECT_TRUE(Load(With(Base(), "rope_scaling", json::object())).ok());
  EXPECT_EQ(Load(With(Base(), "rope_parameters", {{"full_attention", {{"rope_theta", 7.0}}}}))->ropes[0].theta, 7.0);
  EXPECT_TRUE(Load(With(Base(), "architectures", {"LLaMAForCausalLM"})).ok());
  EXPECT_TRUE(Load(With(Base(), "architectures", {"LlamaForCausalLM", "LlamaModel"})).ok());
  EXPECT_EQ(Load(With(Base(), "torch_dtype", "auto"))->stored_dtype, DType::kUnset);
}

RopeParameters Rope(RopeType type, double factor) {
  RopeParameters rope;
  rope.type = type;
  rope.factor = factor;
  return rope;
}

TEST(RopeTest, PlainAndLinearFrequencies) {
  const std::vector<float> plain = RopeInverseFrequencies(RopeParameters(), 8, 1);
  ASSERT_EQ(plain.size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(plain[static_cast<size_t>(i)], std::pow(10.0, -i), 1e-7);
  const std::vector<float> linear = RopeInverseFrequencies(Rope(RopeType::kLinear, 4.0), 8, 1);
  for (size_t i = 0; i < 4; ++i) EXPECT_FLOAT_EQ(linear[i], plain[i] / 4);
}

TEST(RopeTest, Llama3StretchesLongWavelengths) {
  // Wavelengths are 6.28, 62.8, 628, 6283; with 256 original positions those below 64 stay, those
  // above 256 stretch.
  RopeParameters rope = Rope(RopeType::kLlama3, 8.0);
  rope.high_freq_factor = 4.0;
  rope.original_max_position_embeddings = 256;
  const std::vector<float> plain = RopeInverseFrequencies(RopeParameters(), 8, 1);
  const std::vector<float> scaled = RopeInverseFrequencies(rope, 8, 1);
  EXPECT_EQ(scaled[0], plain[0]);
  EXPECT_EQ(scaled[1], plain[1]);
  EXPECT_NEAR(scaled[2], 0.01 / 8, 1e-8);
  EXPECT_NEAR(scaled[3], 0.001 / 8, 1e-9);
  rope.original_max_position_embeddings = 1024;  // wavelength 628 lies between 256 and 1024
  const double smooth = (1024 / (2 * M_PI / 0.01) - 1.0) / 3.0;
  EXPECT_NEAR(RopeInverseFrequencies(rope, 8, 1)[2], (1 - smooth) * 0.01 / 8 + smooth * 0.01, 1e-8);
}

// The base grows once the context is longer than the model's own.
TEST(RopeTest, DynamicFollowsTheLength) {
  RopeParameters rope = Rope(RopeType::kDynamic, 2.0);
  rope.original_max_position_embeddings = 100;
  const std::vector<float> plain = RopeInverseFrequencies(RopeParameters(), 8, 1);
  EXPECT_EQ(RopeInverseFrequencies(rope, 8, 100), plain);
  const double theta = 10000.0 * std::pow(2.0 * 150 / 100 - 1, 8.0 / 6);
  const std::vector<float> longer = RopeInverseFrequencies(rope, 8, 150);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(longer[i] / std::pow(theta, -0.25 * static_cast<double>(i)), 1, 1e-6);
}

TEST(RopeTest, LongropeHasTwoSetsOfFactors) {
  RopeParameters rope = Rope(RopeType::kLongrope, 4.0);
  rope.original_max_position_embeddings = 64;
  rope.short_factor = {1, 1, 1, 2};
  rope.long_factor = {1, 2, 4, 8};
  const std::vector<float> plain = RopeInverseFrequencies(RopeParameters(), 8, 1);
  const std::vector<float> near = RopeInverseFrequencies(rope, 8, 64), far = RopeInverseFrequencies(rope, 8, 65);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_FLOAT_EQ(near[i], plain[i] / rope.short_factor[i]);
    EXPECT_FLOAT_EQ(far[i], plain[i] / rope.long_factor[i]);
  }
}

TEST_F(ModelConfigTest, ReadsTheRopesOfLongContexts) {
  const auto yarn = Load(With(Base(), "rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}));
  ASSERT_TRUE(yarn.ok()) << yarn.status();
  EXPECT_EQ(yarn->ropes[0].original_max_position_embeddings, 4096u);
  EXPECT_DOUBLE_EQ(yarn->ropes[0].attention_factor, 0.1 * std::log(4.0) + 1);
  const json factors = {1, 1, 1, 1, 1, 1, 1, 2};
  json phi =
      With(Base("phi3"), "rope_scaling", {{"type", "longrope"}, {"short_factor", factors}, {"long_factor", factors}});
  phi["original_max_position_embeddings"] = 1024;
  const auto longrope = Load(phi);
  ASSERT_TRUE(longrope.ok()) << longrope.status();
  EXPECT_EQ(longrope->ropes[0].original_max_position_embeddings, 1024u);
  EXPECT_DOUBLE_EQ(longrope->ropes[0].attention_factor, std::sqrt(1 + std::log(4.0) / std::log(1024.0)));
  phi["rope_scaling"]["long_factor"] = {1, 2};
  EXPECT_THAT(std::string(Load(phi).status().message()), AllOf(HasSubstr("long_factor"), HasSubstr("list of 8")));
  EXPECT_TRUE(absl::IsInvalidArgument(Load(With(Base(), "rope_scaling", {{"type", "linear"}})).status()));
}

}  // namespace
}  // namespace tributary
