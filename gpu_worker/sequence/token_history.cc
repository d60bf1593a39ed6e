#include "gpu_worker/sequence/token_history.h"

#include <algorithm>
#include <bit>

namespace tributary {

void TokenHistory::BeginTurn(std::span<const uint32_t> prompt_tokens, const SamplingParams& params,
                             uint32_t max_tokens) {
  for (const uint32_t token : prompt_tokens) See(token);
  in_answer_.clear();
  counts_ = params.penalises_answer();
  if (counts_) in_answer_.reserve(std::min<size_t>(max_tokens, 64 * seen_.size()));
}

void TokenHistory::AddAnswer(uint32_t token) {
  See(token);
  if (counts_) ++in_answer_[token];
}

void TokenHistory::Penalise(const SamplingParams& params, std::span<float> logits) const {
  for (const LogitBias& bias : params.logit_bias) logits[bias.token] += bias.bias;
  if (params.penalises_repetition()) {
    for (size_t word = 0; word < seen_.size(); ++word) {
      for (uint64_t bits = seen_[word]; bits != 0; bits &= bits - 1) {
        float& logit = logits[64 * word + static_cast<size_t>(std::countr_zero(bits))];
        logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
      }
    }
  }
  if (!params.penalises_answer()) return;
  for (const auto& [token, count] : in_answer_) {
    logits[token] -= params.presence_penalty + params.frequency_penalty * static_cast<float>(count);
  }
}

}  // namespace tributary
