// A predictor is read if it was trained for these features and this model, and refused by name and remedy if not.
#include "gpu_worker/device/policy/fluxion/predictor_file.h"

#include <string>

#include "gtest/gtest.h"
#include "model/model_identity.h"
#include "tests/testutil/random_predictor.h"

namespace tributary {
namespace {

constexpr AttentionShape kShape{4, 2, 16};

class PredictorFileTest : public ::testing::Test {
 protected:
  PredictorFileTest() {
    WriteRandomModel(dir_.path(), {});
    model_ = {dir_.path(), ModelIdentity(**LoadModelWeights(dir_.path()))};
    predictor_.model = model_.identity;
    predictor_.Make();
  }
  absl::Status Load() {
    predictor_.Write(dir_.path());
    return LoadBudgetPredictor(&model_, kShape, 2).status();
  }
  void ExpectRefused(absl::StatusCode code, const std::string& what) {
    const absl::Status status = Load();
    EXPECT_EQ(status.code(), code) << status;
    const std::string message(status.message());
    EXPECT_NE(message.find(what), std::string::npos) << message;
    EXPECT_NE(message.find("use budget_mode calibrated"), std::string::npos) << message;
    EXPECT_NE(message.find("fluxion_predictor.safetensors"), std::string::npos) << message;
  }

  TempDir dir_;
  FacetModel model_;
  RandomPredictor predictor_;
};

TEST_F(PredictorFileTest, IsReadWhereEverythingFits) {
  ASSERT_TRUE(Load().ok()) << Load();
  const BudgetPredictor predictor = *LoadBudgetPredictor(&model_, kShape, 2);
  EXPECT_EQ(predictor.head_rates(1)[7], predictor_.tensors["head_rates"].values[15]);
  FluxionFeatures features{};
  EXPECT_TRUE(std::isfinite(predictor.Predict(features).share));
}

TEST_F(PredictorFileTest, AnotherModelFeatureSpecOrFormatIsRefused) {
  predictor_.metadata["model"] = "0123456789abcdef";
  ExpectRefused(absl::StatusCode::kFailedPrecondition, "its model is 0123456789abcdef");
  predictor_.metadata["model"] = model_.identity;
  predictor_.metadata["feature_spec"] = "feedfeedfeedfeed";
  ExpectRefused(absl::StatusCode::kFailedPrecondition, "its feature_spec is feedfeedfeedfeed");
  predictor_.metadata["format"] = "pt";
  ExpectRefused(absl::StatusCode::kFailedPrecondition, "its format is pt");
  predictor_.metadata.clear();
  ExpectRefused(absl::StatusCode::kFailedPrecondition, "its format is nothing");
}

TEST_F(PredictorFileTest, ADamagedFileIsRefused) {
  predictor_.metadata["retrieval_threshold"] = "high";
  ExpectRefused(absl::StatusCode::kInvalidArgument, "retrieval_threshold is 'high'");
  predictor_.metadata["retrieval_threshold"] = "0";
  predictor_.tensors.erase("w3");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "w3");
}

TEST_F(PredictorFileTest, WithoutAFileOrAFolderItSaysWhatToDo) {
  const absl::Status none = LoadBudgetPredictor(&model_, kShape, 2).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(none.message()).find("train one with tools/train_fluxion.py"), std::string::npos) << none;
  model_.dir.clear();
  for (const FacetModel* const model : std::initializer_list<const FacetModel*>{&model_, nullptr}) {
    EXPECT_EQ(LoadBudgetPredictor(model, kShape, 2).status().code(), absl::StatusCode::kFailedPrecondition);
  }
}

TEST(ModelIdentityTest, DiffersByGeometryAndByNorms) {
  const auto identity = [](const RandomModelOptions& options) {
    TempDir dir;
    WriteRandomModel(dir.path(), options);
    return ModelIdentity(**LoadModelWeights(dir.path()));
  };
  RandomModelOptions options;
  const std::string plain = identity(options);
  EXPECT_EQ(plain.size(), 16u);
  EXPECT_EQ(identity(options), plain);
  options.seed = 2;
  EXPECT_NE(identity(options), plain);
  options.seed = 1;
  options.intermediate_size += 16;
  EXPECT_NE(identity(options), plain) << "the random tensors that follow differ";
}

}  // namespace
}  // namespace tributary
