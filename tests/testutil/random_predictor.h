// Writes a budget predictor with random weights beside a model, for tests.
#pragma once

#include <cmath>
#include <filesystem>
#include <map>
#include <random>
#include <string>

#include "fmt/format.h"
#include "policy/fluxion/budget_predictor.h"
#include "policy/fluxion/feature_spec.h"
#include "tests/testutil/random_model.h"

namespace tributary {

struct RandomPredictor {
  uint32_t num_layers = 2;
  uint32_t num_q_heads = 4;
  std::string model;  // its identity
  StoredTensors tensors = {};
  std::map<std::string, std::string> metadata = {};

  // Fills both.
  void Make() {
    std::mt19937_64 random(7);
    const auto add = [&](const std::string& name, std::vector<uint64_t> shape, float deviation) {
      uint64_t count = 1;
      for (const uint64_t size : shape) count *= size;
      std::normal_distribution<float> normal(0, deviation);
      StoredTensor tensor{std::move(shape), std::vector<float>(count)};
      for (float& value : tensor.values) value = normal(random);
      tensors[name] = std::move(tensor);
    };
    add("feature_mean", {kNumFluxionFeatures}, 1);
    tensors["feature_std"] = {{kNumFluxionFeatures}, std::vector<float>(kNumFluxionFeatures, 2.0f)};
    add("head_rates", {num_layers, num_q_heads, 2}, 1);
    for (size_t i = 0; i < 4; ++i) {
      const uint64_t in = PredictorWeights::kWidths[i], out = PredictorWeights::kWidths[i + 1];
      add(fmt::format("w{}", i + 1), {out, in}, std::sqrt(2.0f / static_cast<float>(in)));
      add(fmt::format("b{}", i + 1), {out}, 0.1f);
    }
    metadata = {{"format", "fluxion-predictor-1"},
                {"feature_spec", FluxionFeatureSpecHash()},
                {"model", model},
                {"retrieval_threshold", "0.25"}};
  }
  void Write(const std::filesystem::path& dir) const {
    WriteFile(dir / "fluxion_predictor.safetensors", SafetensorsBytes(tensors, DType::kF32, metadata));
  }
};

}  // namespace tributary
