#include "policy/sparse_params.h"

#include <algorithm>
#include <utility>

#include "fmt/format.h"

namespace tributary {
namespace {

constexpr std::string_view kMinKeptMass = "min_kept_mass";
constexpr std::string_view kMaxOutputError = "max_output_error";
constexpr std::string_view kQualitySampleRate = "quality_sample_rate";
constexpr std::string_view kDenseLayers = "dense_layers";
constexpr std::string_view kDenseHeads = "dense_heads";

constexpr ParameterRow Watching(ParameterRow row) {
  row.names_setting = false;
  return row;
}

constexpr ParameterRow kRows[] = {
    NumberRow(kMinKeptMass, "", {0, 1}, 0, "a head that keeps less of the softmax reads everything, 0: none does"),
    NumberRow(kMaxOutputError, "", {0, 1}, 0, "a head whose output is more wrong reads everything, 0: none does"),
    Watching(NumberRow(kQualitySampleRate, "", {0, 1}, 1.0 / 256,
                       "share of the steps whose kept mass and output error are measured")),
    ListRow(kDenseLayers, "", ParameterType::kLayers, "these layers read everything"),
    ListRow(kDenseHeads, "", ParameterType::kHeads, "these KV heads (LAYER:KV_HEAD) read everything"),
};

}  // namespace

std::vector<ParameterRow> WithSparseParameters(std::span<const ParameterRow> own) {
  std::vector<ParameterRow> rows(own.begin(), own.end());
  rows.insert(rows.end(), std::begin(kRows), std::end(kRows));
  return rows;
}

bool SparseParams::IsAlwaysDense(uint32_t layer, uint32_t kv_head) const {
  return std::find(dense_layers.begin(), dense_layers.end(), layer) != dense_layers.end() ||
         std::find(dense_heads.begin(), dense_heads.end(), LayerHead{layer, kv_head}) != dense_heads.end();
}

SparseParams ReadSparseParams(const PolicyParams& params) {
  if (!params.is_sparse()) return {};
  return {.min_kept_mass = params.number(kMinKeptMass),
          .max_output_error = params.number(kMaxOutputError),
          .quality_sample_rate = params.number(kQualitySampleRate),
          .dense_layers = params.layers(kDenseLayers),
          .dense_heads = params.heads(kDenseHeads)};
}

absl::Status CheckSparseParams(const PolicyParams& params) {
  const SparseParams sparse = ReadSparseParams(params);
  if (sparse.quality_sample_rate > 0) return absl::OkStatus();
  for (const auto& [name, value] :
       {std::pair(kMinKeptMass, sparse.min_kept_mass), std::pair(kMaxOutputError, sparse.max_output_error)}) {
    if (value == 0) continue;
    return absl::InvalidArgumentError(
        fmt::format("{} is {}, but {} 0 never measures it; set a rate above 0", name, value, kQualitySampleRate));
  }
  return absl::OkStatus();
}

}  // namespace tributary
