// Which tokens a sequence has had: what penalties of sampling go by.
//
// Thread-compatible. Memory: a bit for each token of the vocabulary; and the answer's tokens, if they are penalised,
// allocated when the turn begins.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "cluster/sampling.h"

namespace tributary {

class TokenHistory {
 public:
  TokenHistory() = default;  // of a sequence whose sampling penalises nothing; takes no tokens
  explicit TokenHistory(uint32_t vocab_size) : seen_((vocab_size + 63) / 64) {}

  // A turn that samples by `params`: its prompt joins what was there, and its answer, of at most max_tokens, begins.
  // REQUIRES: each token is of the vocabulary.
  void BeginTurn(std::span<const uint32_t> prompt_tokens, const SamplingParams& params, uint32_t max_tokens);
  void AddAnswer(uint32_t token);

  // Adds logit_bias; then divides the positive and multiplies the other logits of every token that prompts or answers
  // have by repetition_penalty (Keskar et al. 2019, CTRL, section 4.1, in Transformers' form); then takes
  // presence_penalty, and frequency_penalty times its count, from each token that this turn's answer has. REQUIRES: the
  // logits are of the vocabulary, and so are the biased tokens.
  void Penalise(const SamplingParams& params, std::span<float> logits) const;

 private:
  void See(uint32_t token) { seen_[token / 64] |= uint64_t{1} << (token % 64); }

  std::vector<uint64_t> seen_;                         // a bit for each token of prompts and answers, all turns
  bool counts_ = false;                                // this turn
  absl::flat_hash_map<uint32_t, uint32_t> in_answer_;  // how often this turn's answer has the token, if it counts
};

}  // namespace tributary
