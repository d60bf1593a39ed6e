#include "cpu_attention_service/policy/shard_fallback.h"

#include <span>
#include <utility>

#include "policy/sparse_params.h"

namespace tributary {

ShardFallback::ShardFallback(const ShardSpec& spec)
    : layer_begin_(spec.layer_begin), group_size_(spec.model.group_size()) {
  const auto min_kept_mass = static_cast<float>(ReadSparseParams(spec.policy).min_kept_mass);
  layers_.reserve(spec.num_layers_held());
  for (uint32_t layer = 0; layer < spec.num_layers_held(); ++layer) {
    layers_.emplace_back(spec.num_kv_heads_held(), min_kept_mass);
  }
}

FrameError ShardFallback::CheckDenseHeads(const ReadRequest& request, uint32_t num_kv_heads) {
  for (auto head = num_kv_heads; head < request.dense_heads.size() * 8; ++head) {
    if (request.WantsDense(head)) return FrameError::kMalformed;
  }
  return FrameError::kOk;
}

void ShardFallback::CompletePlan(const ReadRequest& request, ReadPlan* plan) const {
  const DenseFallback& fallback = layers_[request.layer - layer_begin_];
  plan->sample.clear();
  if (request.is_measured()) plan->sample.assign(plan->answer.size(), HeadRead{.is_untouched = true});
  for (uint32_t head = 0; head < plan->answer.size(); ++head) {
    HeadRead& answer = plan->answer[head];
    if (ReadsAll(request, answer)) continue;
    HeadRead other{.tokens = request.local};
    if (fallback.IsDense(head) || request.WantsDense(head)) {
      std::swap(answer, other);
      other.weights = {};
    }
    if (request.is_measured()) plan->sample[head] = other;
  }
}

void ShardFallback::OnSampled(const ReadRequest& request, const ReadPlan& plan, const SampledPartials& partials,
                              std::vector<float>* kept_mass) {
  DenseFallback& fallback = OfLayer(request.layer);
  const std::span<const float> answer_lse_ln = partials.answer.lse_ln, sample_lse_ln = partials.sample.lse_ln;
  const size_t num_q_heads = answer_lse_ln.size() / request.n_q;
  for (uint32_t head = 0; head < plan.answer.size(); ++head) {
    if (plan.sample[head].is_untouched) continue;  // it has no selection
    const bool answer_is_dense = ReadsAll(request, plan.answer[head]);
    const std::span<const float> dense = answer_is_dense ? answer_lse_ln : sample_lse_ln;
    const std::span<const float> sparse = answer_is_dense ? sample_lse_ln : answer_lse_ln;
    const size_t num_before = kept_mass->size();
    for (size_t first = size_t{head} * group_size_; first < dense.size(); first += num_q_heads) {
      for (size_t row = first; row < first + group_size_; ++row) {
        kept_mass->push_back(KeptMass(sparse[row], dense[row]));
      }
    }
    if (fallback.IsDense(head)) --num_heads_;
    fallback.OnSample(head, std::span(*kept_mass).subspan(num_before));
    if (fallback.IsDense(head)) ++num_heads_;
  }
}

}  // namespace tributary
