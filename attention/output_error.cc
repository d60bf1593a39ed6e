#include "attention/output_error.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "attention/merge.h"
#include "base/check.h"
#include "base/limits.h"

namespace tributary {
namespace {

// The merge of partials of one head, element by element; a zero where all are empty.
class MergedHead {
 public:
  MergedHead(std::span<const ConstAttentionPartialView> partials, size_t head, uint32_t head_dim) {
    TRIBUTARY_CHECK_LE(partials.size(), parts_.size());
    MergeState state;
    for (const ConstAttentionPartialView& partial : partials) {
      TRIBUTARY_CHECK_LT(head, partial.lse_ln.size());
      TRIBUTARY_CHECK_LE((head + 1) * head_dim, partial.out.size());
      const MergeWeights weights = state.Fold(partial.lse_ln[head]);
      if (weights.keep == 1.0f && weights.add == 0.0f) continue;  // empty: its out may be anything
      for (size_t i = 0; i < num_parts_; ++i) parts_[i].factor *= double{weights.keep};
      parts_[num_parts_++] = {partial.out.data() + head * head_dim, double{weights.add}};
    }
    for (size_t i = 0; i < num_parts_; ++i) parts_[i].factor *= double{state.Normaliser()};
  }
  double operator[](uint32_t d) const {
    double sum = 0;
    for (size_t i = 0; i < num_parts_; ++i) sum += parts_[i].factor * double{parts_[i].out[d]};
    return sum;
  }

 private:
  struct Part {
    const float* out = nullptr;
    double factor = 0;
  };
  std::array<Part, limits::kMaxTokenStripes + 1> parts_;
  size_t num_parts_ = 0;
};

}  // namespace

OutputDistance CompareOutputs(std::span<const ConstAttentionPartialView> read,
                              std::span<const ConstAttentionPartialView> full, size_t head, uint32_t head_dim) {
  const MergedHead of_read(read, head, head_dim), of_all(full, head, head_dim);
  double distance = 0, norm = 0;
  for (uint32_t d = 0; d < head_dim; ++d) {
    const double value = of_all[d], difference = of_read[d] - value;
    norm += value * value;
    distance += difference * difference;
  }
  return {std::sqrt(distance), std::sqrt(norm)};
}

void OutputErrors(std::span<const ConstAttentionPartialView> read, std::span<const ConstAttentionPartialView> full,
                  uint32_t head_dim, std::span<float> errors) {
  double largest = 0;
  for (size_t head = 0; head < errors.size(); ++head) {
    const OutputDistance compared = CompareOutputs(read, full, head, head_dim);
    largest = std::max(largest, compared.full_norm);
    errors[head] = static_cast<float>(compared.distance);
  }
  for (float& error : errors) error = OutputError(double{error}, largest);
}

}  // namespace tributary
