#include "gpu_worker/device/policy/fluxion/predictor_file.h"

#include <charconv>
#include <filesystem>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "base/status.h"
#include "fmt/format.h"
#include "model/safetensors.h"
#include "policy/fluxion/feature_spec.h"

namespace tributary {
namespace {

constexpr std::string_view kFormat = "fluxion-predictor-1";
constexpr std::string_view kRemedy = "train one with tools/train_fluxion.py, or use budget_mode calibrated";

std::string MetadataOf(const SafetensorsFile& file, std::string_view key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? std::string("nothing") : found->second;
}

absl::Status CheckMetadata(const SafetensorsFile& file, std::string_view key, std::string_view expected,
                           std::string_view what) {
  const std::string value = MetadataOf(file, key);
  if (value == expected) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("{}: its {} is {}, and {} is {}: {}", file.path().string(), key, value, what, expected, kRemedy));
}

absl::Status ReadTensor(const SafetensorsFile& file, const std::string& name, std::vector<float>* to) {
  TRIBUTARY_ASSIGN_OR_RETURN(const TensorView* const tensor, file.Find(name));
  TRIBUTARY_ASSIGN_OR_RETURN(*to, ReadF32(*tensor));
  return absl::OkStatus();
}

absl::Status ReadThreshold(const SafetensorsFile& file, float* to) {
  const std::string text = MetadataOf(file, "retrieval_threshold");
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *to);
  if (error == std::errc() && end == text.data() + text.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("its retrieval_threshold is '{}', which is no number", text));
}

absl::StatusOr<BudgetPredictor> Read(const SafetensorsFile& file, uint32_t num_layers, uint32_t num_q_heads) {
  PredictorWeights weights;
  weights.num_layers = num_layers;
  weights.num_q_heads = num_q_heads;
  TRIBUTARY_RETURN_IF_ERROR(ReadThreshold(file, &weights.retrieval_threshold));
  TRIBUTARY_RETURN_IF_ERROR(ReadTensor(file, "feature_mean", &weights.feature_mean));
  TRIBUTARY_RETURN_IF_ERROR(ReadTensor(file, "feature_std", &weights.feature_std));
  TRIBUTARY_RETURN_IF_ERROR(ReadTensor(file, "head_rates", &weights.head_rates));
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    TRIBUTARY_RETURN_IF_ERROR(ReadTensor(file, fmt::format("w{}", i + 1), &weights.layers[i].weight));
    TRIBUTARY_RETURN_IF_ERROR(ReadTensor(file, fmt::format("b{}", i + 1), &weights.layers[i].bias));
  }
  return BudgetPredictor::Make(std::move(weights));
}

}  // namespace

absl::StatusOr<BudgetPredictor> LoadBudgetPredictor(const FacetModel* model, const AttentionShape& shape,
                                                    uint32_t num_layers) {
  if (model == nullptr || model->dir.empty()) {
    return absl::FailedPreconditionError(
        "budget_mode predictor needs a predictor beside the model, and this worker has no model folder: use "
        "budget_mode calibrated");
  }
  const std::filesystem::path path = model->dir / kPredictorFileName;
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  if (absl::IsNotFound(file.status())) {
    return absl::FailedPreconditionError(
        fmt::format("budget_mode predictor needs {}, which is not there: {}", path.string(), kRemedy));
  }
  TRIBUTARY_RETURN_IF_ERROR(file.status());
  TRIBUTARY_RETURN_IF_ERROR(CheckMetadata(*file, "format", kFormat, "what this worker reads"));
  TRIBUTARY_RETURN_IF_ERROR(CheckMetadata(*file, "feature_spec", FluxionFeatureSpecHash(), "that of this worker"));
  TRIBUTARY_RETURN_IF_ERROR(CheckMetadata(*file, "model", model->identity, "the identity of the model that is served"));
  absl::StatusOr<BudgetPredictor> predictor = Read(*file, num_layers, shape.num_q_heads);
  if (predictor.ok()) return predictor;
  return absl::InvalidArgumentError(
      fmt::format("{} is damaged: {}: {}", path.string(), std::string(predictor.status().message()), kRemedy));
}

}  // namespace tributary
