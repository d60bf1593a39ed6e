// Gives a sequence its next token, out of logits or of what the device has chosen itself.
//
// A token whose probability is not finite fails the sequence (INTERNAL: the model or its KV is damaged) and is not
// taken. Thread-compatible.
#pragma once

#include <span>
#include <utility>

#include "gpu_worker/device/device.h"
#include "gpu_worker/engine/engine_events.h"
#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/step/decode_step.h"

namespace tributary {

class TokenTaker {
 public:
  // `device` outlives this. The observer may be null; it sees the logits of every token, so no device keeps them then.
  TokenTaker(size_t vocab_size, Device* device, LogitsObserver observer)
      : vocab_size_(vocab_size), device_(device), observer_(std::move(observer)) {}

  // True if a step that makes this sequence's next token must hand its logits out.
  bool NeedsLogits(const Sequence& sequence) const;

  // Both return false if the sequence has failed: it has no new token then.
  // Logits are f32 [vocab_size].
  bool Take(Sequence& sequence, std::span<const float> logits) const;
  // Takes the token from what the device made of the step's row, which is number row_idx of the batch. Logits are f32
  // [row][vocab_size].
  bool TakeRow(Sequence& sequence, const StepRow& row, size_t row_idx, std::span<const float> logits) const;

  // What is reported of the sequence's latest token.
  static SequenceTokens Latest(const Sequence& sequence);

 private:
  static bool Take(Sequence& sequence, const SampledToken& sampled);

  const size_t vocab_size_;
  Device* const device_;
  const LogitsObserver observer_;
};

}  // namespace tributary
