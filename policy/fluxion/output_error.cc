#include "policy/fluxion/output_error.h"

#include <algorithm>
#include <cmath>

#include "attention/merge.h"
#include "base/check.h"

namespace tributary {
namespace {

// The merge of two partials of one head, element by element; a zero where both are empty.
class MergedHead {
 public:
  MergedHead(ConstAttentionPartialView a, ConstAttentionPartialView b, size_t head, uint32_t head_dim)
      : a_(a.out.empty() ? nullptr : a.out.data() + head * head_dim), b_(b.out.data() + head * head_dim) {
    MergeState state;
    if (a_ != nullptr) a_factor_ = state.Fold(a.lse_ln[head]).add;
    const MergeWeights weights = state.Fold(b.lse_ln[head]);
    a_factor_ *= weights.keep * state.Normaliser();
    b_factor_ = weights.add * state.Normaliser();
  }
  double operator[](uint32_t d) const {
    return (a_ == nullptr ? 0.0 : double{a_factor_} * double{a_[d]}) + double{b_factor_} * double{b_[d]};
  }

 private:
  const float* a_;
  const float* b_;
  float a_factor_ = 0;
  float b_factor_ = 0;
};

}  // namespace

void OutputErrors(ConstAttentionPartialView resident, ConstAttentionPartialView read, ConstAttentionPartialView full,
                  uint32_t head_dim, std::span<float> errors) {
  TRIBUTARY_CHECK_EQ(read.out.size(), errors.size() * head_dim);
  TRIBUTARY_CHECK_EQ(full.out.size(), errors.size() * head_dim);
  TRIBUTARY_CHECK(resident.out.empty() || resident.out.size() == full.out.size());
  double largest = 0;
  for (size_t head = 0; head < errors.size(); ++head) {
    const MergedHead of_all(resident, full, head, head_dim);
    const MergedHead of_read(resident, read, head, head_dim);
    double norm = 0, distance = 0;
    for (uint32_t d = 0; d < head_dim; ++d) {
      norm += of_all[d] * of_all[d];
      distance += (of_read[d] - of_all[d]) * (of_read[d] - of_all[d]);
    }
    largest = std::max(largest, std::sqrt(norm));
    errors[head] = static_cast<float>(std::sqrt(distance));
  }
  for (float& error : errors) error = error == 0 ? 0 : static_cast<float>(double{error} / largest);
}

}  // namespace tributary
