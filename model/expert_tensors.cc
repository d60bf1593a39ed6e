#include "model/expert_tensors.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "model/forget_pages.h"

namespace tributary {
namespace {

// Columns `first`, `first` + `step`, ... of a matrix of `rows` x `cols`, as rows.
template <typename Element>
void CopyColumns(const std::byte* from, size_t rows, size_t cols, size_t first, size_t step, std::byte* to) {
  constexpr size_t kTile = 64;  // of both, so that neither side leaves the cache
  const size_t out_rows = cols / step;
  for (size_t row_begin = 0; row_begin < rows; row_begin += kTile) {
    for (size_t out_begin = 0; out_begin < out_rows; out_begin += kTile) {
      for (size_t out = out_begin; out < std::min(out_begin + kTile, out_rows); ++out) {
        for (size_t row = row_begin; row < std::min(row_begin + kTile, rows); ++row) {
          // Tensors need not be aligned.
          std::memcpy(to + (out * rows + row) * sizeof(Element),
                      from + (row * cols + first + out * step) * sizeof(Element), sizeof(Element));
        }
      }
    }
  }
}

// One expert's part of a tensor of all: [rows][cols].
struct Part {
  const TensorView& all;
  size_t expert;
  size_t rows;
  size_t cols;

  size_t element_bytes() const { return TensorTypeBytes(all.type); }
  std::span<const std::byte> bytes() const {
    const size_t size = rows * cols * element_bytes();
    return all.bytes.subspan(expert * size, size);
  }
};

const TensorView* AddView(ModelWeights& weights, const TensorView& all, std::vector<uint64_t> shape,
                          std::span<const std::byte> bytes) {
  weights.slices.push_back({.name = all.name, .type = all.type, .shape = std::move(shape), .bytes = bytes});
  return &weights.slices.back();
}

const TensorView* AddColumns(ModelWeights& weights, const Part& part, size_t first, size_t step,
                             std::vector<uint64_t> shape) {
  std::vector<std::byte>& copy = weights.copies.emplace_back(part.bytes().size() / step);
  const auto columns = part.element_bytes() == sizeof(float) ? CopyColumns<float> : CopyColumns<uint16_t>;
  columns(part.bytes().data(), part.rows, part.cols, first, step, copy.data());
  return AddView(weights, part.all, std::move(shape), copy);
}

}  // namespace

void SeparateExperts(const MoeSpec& moe, ModelWeights& weights, LayerWeights& layer) {
  const uint64_t hidden = weights.config.hidden_size, intermediate = moe.intermediate_size;
  layer.experts.resize(moe.num_experts);
  for (size_t e = 0; e < moe.num_experts; ++e) {
    ExpertWeights& expert = layer.experts[e];
    const Part gate_up{*layer.all_gate_up, e, hidden, 2 * intermediate};
    expert.gate = AddColumns(weights, gate_up, 0, 2, {intermediate, hidden});
    expert.up = AddColumns(weights, gate_up, 1, 2, {intermediate, hidden});
    const Part gate_up_bias{*layer.all_gate_up_bias, e, 1, 2 * intermediate};
    expert.gate_bias = AddColumns(weights, gate_up_bias, 0, 2, {intermediate});
    expert.up_bias = AddColumns(weights, gate_up_bias, 1, 2, {intermediate});
    expert.down = AddColumns(weights, {*layer.all_down, e, intermediate, hidden}, 0, 1, {hidden, intermediate});
    const Part down_bias{*layer.all_down_bias, e, 1, hidden};
    expert.down_bias = AddView(weights, down_bias.all, {hidden}, down_bias.bytes());
  }
  ForgetPages(layer.all_gate_up->bytes);
  ForgetPages(layer.all_down->bytes);
}

}  // namespace tributary
