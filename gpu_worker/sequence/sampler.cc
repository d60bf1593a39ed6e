#include "gpu_worker/sequence/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "base/siphash.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// The same for the same (seed, position), whatever was drawn before; in [0, 1).
double UniformAt(uint64_t seed, uint64_t position) {
  const std::array<uint64_t, 1> message = {position};
  const uint64_t bits = SipHash24(SipKey{seed, 0x74726962}, std::as_bytes(std::span(message)));
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

uint32_t ArgMax(std::span<const float> logits) {
  return static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// What turns logits into ln softmax.
struct Normaliser {
  double max;
  double log_sum;  // ln of the sum of exp(logit - max)

  double LogProb(float logit) const { return static_cast<double>(logit) - max - log_sum; }
};

Normaliser NormaliserOf(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  return {max, std::log(sum)};
}

struct Candidate {
  double weight;  // exp((logit - max) / temperature)
  uint32_t token;
};

// Inverse of the cumulative distribution at `uniform`, in the order of the candidates.
uint32_t Pick(std::span<const Candidate> candidates, double total, double uniform) {
  double left = uniform * total;
  for (const Candidate& candidate : candidates) {
    left -= candidate.weight;
    if (left < 0) return candidate.token;
  }
  return candidates.back().token;  // rounding only
}

// Moves the most likely candidates to the front, in order, until `max_count` or the share `top_p`
// of `total` is reached.
size_t CutToMostLikely(std::vector<Candidate>& candidates, size_t max_count, double top_p, double total) {
  const auto less_likely = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight < b.weight : a.token > b.token;
  };
  std::make_heap(candidates.begin(), candidates.end(), less_likely);
  std::vector<Candidate> kept;
  double sum = 0;
  auto heap_end = candidates.end();
  while (heap_end != candidates.begin() && kept.size() < max_count && sum < top_p * total) {
    std::pop_heap(candidates.begin(), heap_end, less_likely);
    --heap_end;
    kept.push_back(*heap_end);
    sum += heap_end->weight;
  }
  std::copy(kept.begin(), kept.end(), candidates.begin());
  return kept.size();
}

double SumOf(std::span<const Candidate> candidates) {
  return std::accumulate(candidates.begin(), candidates.end(), 0.0,
                         [](double sum, const Candidate& c) { return sum + c.weight; });
}

// The tokens with at least `share` of the weight of the likeliest, which is 1, in their order.
size_t CutToShare(std::vector<Candidate>& candidates, size_t count, double share) {
  const auto end = candidates.begin() + static_cast<std::ptrdiff_t>(count);
  const auto kept = std::remove_if(candidates.begin(), end, [share](const Candidate& c) { return c.weight < share; });
  return static_cast<size_t>(kept - candidates.begin());
}

uint32_t Choose(std::span<const float> logits, const SamplingParams& params, uint64_t position) {
  const uint32_t best = ArgMax(logits);
  if (params.temperature == 0 || params.top_k == 1) return best;
  std::vector<Candidate> candidates(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double scaled = (static_cast<double>(logits[i]) - logits[best]) / params.temperature;
    candidates[i] = {std::exp(scaled), static_cast<uint32_t>(i)};
  }
  size_t count = candidates.size();
  if (params.top_k != 0 && params.top_k < count) {
    count = CutToMostLikely(candidates, params.top_k, INFINITY, 1.0);
    candidates.resize(count);
  }
  if (params.top_p > 0 && params.top_p < 1) {
    count = CutToMostLikely(candidates, count, params.top_p, SumOf(candidates));
  }
  if (params.min_p > 0) count = CutToShare(candidates, count, params.min_p);
  const std::span<const Candidate> kept(candidates.data(), count);
  // Nothing is left of logits that are not finite; whoever asks finds that out by the token's probability.
  return kept.empty() ? best : Pick(kept, SumOf(kept), UniformAt(params.seed, position));
}

}  // namespace

double LogProb(std::span<const float> logits, uint32_t token) {
  TRIBUTARY_CHECK_LT(token, logits.size());
  const Normaliser normaliser = NormaliserOf(logits);
  return normaliser.LogProb(logits[token]);
}

TopTokens LikeliestTokens(std::span<const float> logits, uint32_t count) {
  std::vector<uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto kept = order.begin() + std::min<size_t>(count, order.size());
  std::partial_sort(order.begin(), kept, order.end(), [logits](uint32_t a, uint32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  TopTokens top{{order.begin(), kept}, {}};
  const Normaliser normaliser = NormaliserOf(logits);
  for (const uint32_t token : top.tokens) {
    top.logprobs.push_back(static_cast<float>(normaliser.LogProb(logits[token])));
  }
  return top;
}

SampledToken Sample(std::span<const float> logits, const SamplingParams& params, uint64_t position,
                    const TokenHistory& history) {
  TRIBUTARY_CHECK(!logits.empty());
  if (!params.changes_logits()) {
    const uint32_t token = Choose(logits, params, position);
    return {token, LogProb(logits, token)};
  }
  std::vector<float> changed(logits.begin(), logits.end());
  history.Penalise(params, changed);
  const uint32_t token = Choose(changed, params, position);
  return {token, LogProb(logits, token)};
}

}  // namespace tributary
