#include "model/dummy_weights.h"

#include <cmath>
#include <cstring>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/random_model.h"

namespace tributary {
namespace {

absl::StatusOr<std::shared_ptr<const ModelWeights>> Make(const RandomModelOptions& options, uint64_t seed) {
  TempDir dir;
  WriteFile(dir / "config.json", RandomModelConfig(options).dump());
  return MakeDummyWeights(dir.path(), seed);
}

std::vector<float> Values(const TensorView* tensor) { return ReadF32(*tensor).value(); }

TEST(DummyWeightsTest, HaveTheShapesOfACheckpoint) {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    for (const bool tied : {false, true}) {
      RandomModelOptions options;
      options.model_type = family;
      options.tied = tied;
      TempDir dir;
      WriteFile(dir / "config.json", RandomModelConfig(options).dump());
      WriteFile(dir / "model.safetensors", SafetensorsBytes(RandomModelTensors(options), options.stored_dtype));
      const auto stored = LoadModelWeights(dir.path());
      const auto dummy = Make(options, 1);
      ASSERT_TRUE(stored.ok()) << stored.status();
      ASSERT_TRUE(dummy.ok()) << dummy.status();
      EXPECT_EQ((*dummy)->num_parameters(), (*stored)->num_parameters()) << family;
      EXPECT_EQ((*dummy)->lm_head == (*dummy)->embedding, tied);
      ASSERT_EQ((*dummy)->layers.size(), (*stored)->layers.size());
      const LayerWeights& layer = (*dummy)->layers[1];
      const LayerWeights& stored_layer = (*stored)->layers[1];
      EXPECT_EQ(layer.q->shape, stored_layer.q->shape);
      EXPECT_EQ(layer.down->shape, stored_layer.down->shape);
      EXPECT_EQ(layer.down->num_elements(), stored_layer.down->num_elements());
      EXPECT_EQ(layer.q_bias == nullptr, stored_layer.q_bias == nullptr);
      EXPECT_EQ(layer.k_norm == nullptr, stored_layer.k_norm == nullptr);
    }
  }
}

TEST(DummyWeightsTest, ValuesAreThoseOfAnInitialisedModel) {
  const auto weights = Make({}, 3);
  ASSERT_TRUE(weights.ok()) << weights.status();
  for (const float one : Values((*weights)->layers[0].mlp_norm)) ASSERT_EQ(one, 1.0f);
  double sum = 0, squares = 0, count = 0;
  for (const LayerWeights& layer : (*weights)->layers) {
    for (const TensorView* tensor : {layer.q, layer.o, layer.gate, layer.up, layer.down}) {
      for (const float value : Values(tensor)) {
        sum += value;
        squares += double{value} * value;
        ++count;
      }
    }
  }
  EXPECT_NEAR(sum / count, 0, 5 * 0.02 / std::sqrt(count));
  EXPECT_NEAR(std::sqrt(squares / count), 0.02, 0.001);
}

TEST(DummyWeightsTest, TheSeedDecidesEveryBit) {
  const auto first = Make({}, 3);
  const auto again = Make({}, 3);
  const auto other = Make({}, 4);
  ASSERT_TRUE(first.ok() && again.ok() && other.ok());
  EXPECT_EQ(Values((*first)->layers[1].down), Values((*again)->layers[1].down));
  EXPECT_NE(Values((*first)->layers[1].down), Values((*other)->layers[1].down));
  EXPECT_NE(Values((*first)->layers[1].gate), Values((*first)->layers[1].up));
  EXPECT_NE(Values((*first)->layers[0].q), Values((*first)->layers[1].q));
}

TEST(DummyWeightsTest, RealGeometriesTakeNoMemory) {
  for (const auto& [name, parameters] :
       {std::pair{"llama3-8b", 8'030'261'248u}, std::pair{"qwen3-8b", 8'190'735'360u}}) {
    const auto weights = MakeDummyWeights(std::filesystem::path("benchmarks/configs") / name, 1);
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ((*weights)->num_parameters(), parameters);
    const TensorView& table = *(*weights)->embedding;
    EXPECT_NE(std::memcmp(table.bytes.data(), table.bytes.data() + table.bytes.size() - 8192, 8192), 0);
  }
}

TEST(DummyWeightsTest, ExpertsInTensorsOfAll) {
  RandomModelOptions options;
  options.model_type = "gpt_oss";
  TempDir dir;
  nlohmann::json config = RandomModelConfig(options);
  config["num_local_experts"] = 3;
  WriteFile(dir / "config.json", config.dump());
  const auto weights = MakeDummyWeights(dir.path(), 1);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const LayerWeights& layer = (*weights)->layers[1];
  ASSERT_EQ(layer.experts.size(), 3u);
  const std::vector<float> all = Values(layer.all_down), down = Values(layer.experts[2].down);
  const size_t hidden = options.hidden_size, inner = options.intermediate_size;
  EXPECT_EQ(down[5 * inner + 7], all[(2 * inner + 7) * hidden + 5]);
  EXPECT_NE(Values(layer.experts[0].gate), Values(layer.experts[0].up));
}

TEST(DummyWeightsTest, NeedsAConfig) {
  TempDir dir;
  const auto weights = MakeDummyWeights(dir.path(), 1);
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(weights.status().message()), ::testing::HasSubstr("config.json"));
}

}  // namespace
}  // namespace tributary
