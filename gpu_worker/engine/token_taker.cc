#include "gpu_worker/engine/token_taker.h"

#include <cmath>

#include "fmt/format.h"

namespace tributary {

bool TokenTaker::NeedsLogits(const Sequence& sequence) const {
  return !device_->samples() || observer_ != nullptr || sequence.next_needs_logits();
}

bool TokenTaker::Take(Sequence& sequence, std::span<const float> logits) const {
  if (observer_) observer_(sequence.id(), sequence.generated_tokens, logits);
  if (!Take(sequence, sequence.Choose(logits))) return false;
  if (sequence.plan.top_logprobs > 0) sequence.top = LikeliestTokens(logits, sequence.plan.top_logprobs);
  return true;
}

bool TokenTaker::TakeRow(Sequence& sequence, const StepRow& row, size_t row_idx, std::span<const float> logits) const {
  if (row.device.wants_logits) return Take(sequence, logits.subspan(row_idx * vocab_size_, vocab_size_));
  const DeviceSample& sample = device_->sampled()[row_idx];
  return Take(sequence, SampledToken{sample.token, sample.logprob});
}

bool TokenTaker::Take(Sequence& sequence, const SampledToken& sampled) {
  if (!std::isfinite(sampled.logprob)) {
    sequence.Fail(
        absl::InternalError(fmt::format("sequence {}: the logits of token {} are not finite: the model or its "
                                        "KV is damaged",
                                        sequence.id().value, sequence.generated_tokens)),
        kNoNode);
    return false;
  }
  sequence.TakeToken(sampled);  // not before: a bad token might look like a stop token
  return true;
}

SequenceTokens TokenTaker::Latest(const Sequence& sequence) {
  SequenceTokens latest{sequence.id(), {sequence.sampled.token}, {static_cast<float>(sequence.sampled.logprob)}, {}};
  if (sequence.plan.top_logprobs > 0) latest.top.push_back(sequence.top);
  return latest;
}

}  // namespace tributary
