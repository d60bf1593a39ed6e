#include "gpu_worker/device/host/host_moe.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace tributary {

void ChooseExperts(const MoeSpec& moe, std::span<const float> logits, std::span<ExpertChoice> choices) {
  TRIBUTARY_CHECK_EQ(choices.size(), size_t{moe.experts_per_token});
  TRIBUTARY_CHECK_LE(choices.size(), logits.size());
  std::vector<uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  // NaN counts as the lowest, so that the order is one; the weights are NaN then, and so are the row's logits.
  const auto key = [&](uint32_t i) { return std::isnan(logits[i]) ? -INFINITY : logits[i]; };
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(choices.size()), order.end(),
                    [&](uint32_t a, uint32_t b) { return key(a) != key(b) ? key(a) > key(b) : a < b; });
  const float max = logits[order[0]];
  float sum = 0;
  for (size_t i = 0; i < choices.size(); ++i) choices[i] = {order[i], std::exp(logits[order[i]] - max)};
  if (moe.normalises_weights) {
    for (const ExpertChoice& choice : choices) sum += choice.weight;
  } else {
    for (const float logit : logits) sum += std::exp(logit - max);
  }
  for (ExpertChoice& choice : choices) choice.weight /= sum;
  std::sort(choices.begin(), choices.end(),
            [](const ExpertChoice& a, const ExpertChoice& b) { return a.expert < b.expert; });
}

HostMoe::HostMoe(const HostWeights& weights, const RowKernels& kernels, size_t max_tokens)
    : weights_(weights), kernels_(kernels) {
  const MoeSpec& moe = weights.config().moe;
  if (moe.num_experts == 0) return;
  logits_.resize(max_tokens * moe.num_experts);
  choices_.resize(max_tokens * moe.experts_per_token);
  gathered_.resize(max_tokens * weights.config().hidden_size);
  gate_up_.resize(max_tokens * 2 * moe.intermediate_size);
  expert_out_.resize(max_tokens * weights.config().hidden_size);
}

void HostMoe::Activate(const HostExpert& expert, float* gate_up) const {
  const size_t intermediate = weights_.config().moe.intermediate_size;
  AddBias(expert.gate_up_bias.span(), gate_up);
  kernels_.activate(weights_.config().activation)(gate_up, gate_up + intermediate, intermediate);
}

void HostMoe::RunEachToken(ThreadPool& pool, uint32_t layer, const float* x, size_t tokens, float* out) {
  const MoeSpec& moe = weights_.config().moe;
  const size_t hidden = weights_.config().hidden_size;
  std::fill_n(out, tokens * hidden, 0.0f);
  for (size_t t = 0; t < tokens; ++t) {
    MatVecEachRow(pool, weights_.router(layer), x + t * hidden, hidden, 1, logits_.data(), moe.num_experts);
    AddBias(weights_.layer(layer).router_bias.span(), logits_.data());
    const std::span<ExpertChoice> choices = std::span(choices_).first(moe.experts_per_token);
    ChooseExperts(moe, std::span(logits_).first(moe.num_experts), choices);
    for (const ExpertChoice& choice : choices) {
      const HostExpert& expert = weights_.expert(layer, choice.expert);
      MatVecEachRow(pool, expert.gate_up, x + t * hidden, hidden, 1, gate_up_.data(),
                    2 * size_t{moe.intermediate_size});
      Activate(expert, gate_up_.data());
      MatVecEachRow(pool, expert.down, gate_up_.data(), 2 * size_t{moe.intermediate_size}, 1, expert_out_.data(),
                    hidden);
      AddBias(expert.down_bias.span(), expert_out_.data());
      for (size_t i = 0; i < hidden; ++i) out[t * hidden + i] += choice.weight * expert_out_[i];
    }
  }
}

void HostMoe::RunTogether(uint32_t layer, const float* x, size_t tokens, float* out) {
  const MoeSpec& moe = weights_.config().moe;
  const size_t hidden = weights_.config().hidden_size;
  const size_t ld = 2 * size_t{moe.intermediate_size};
  MatMul(weights_.router(layer), x, hidden, tokens, logits_.data(), moe.num_experts, false);
  for (size_t t = 0; t < tokens; ++t) {
    AddBias(weights_.layer(layer).router_bias.span(), logits_.data() + t * moe.num_experts);
    ChooseExperts(moe, {logits_.data() + t * moe.num_experts, moe.num_experts},
                  std::span(choices_).subspan(t * moe.experts_per_token, moe.experts_per_token));
  }
  std::fill_n(out, tokens * hidden, 0.0f);
  const auto choice_of = [&](size_t t, uint32_t expert) -> const ExpertChoice* {
    const std::span<const ExpertChoice> choices =
        std::span(choices_).subspan(t * moe.experts_per_token, moe.experts_per_token);
    const auto it = std::find_if(choices.begin(), choices.end(), [&](auto& choice) { return choice.expert == expert; });
    return it == choices.end() ? nullptr : &*it;
  };
  for (uint32_t e = 0; e < moe.num_experts; ++e) {
    const HostExpert& expert = weights_.expert(layer, e);
    size_t count = 0;
    for (size_t t = 0; t < tokens; ++t) {
      if (choice_of(t, e) != nullptr) std::copy_n(x + t * hidden, hidden, gathered_.data() + count++ * hidden);
    }
    if (count == 0) continue;
    MatMul(expert.gate_up, gathered_.data(), hidden, count, gate_up_.data(), ld, false);
    for (size_t i = 0; i < count; ++i) Activate(expert, gate_up_.data() + i * ld);
    MatMul(expert.down, gate_up_.data(), ld, count, expert_out_.data(), hidden, false);
    for (size_t i = 0; i < count; ++i) AddBias(expert.down_bias.span(), expert_out_.data() + i * hidden);
    for (size_t t = 0, row = 0; t < tokens; ++t) {
      const ExpertChoice* const choice = choice_of(t, e);
      if (choice == nullptr) continue;
      const float* const from = expert_out_.data() + row++ * hidden;
      for (size_t i = 0; i < hidden; ++i) out[t * hidden + i] += choice->weight * from[i];
    }
  }
}

}  // namespace tributary
