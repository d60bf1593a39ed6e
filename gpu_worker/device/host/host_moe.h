// A layer of experts on the host: a router scores them for each token, and the token's output is the weighted sum of a
// few experts' MLPs (Mixtral, arXiv 2401.04088, section 2.1).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "gpu_worker/device/host/host_weights.h"
#include "gpu_worker/device/host/row_kernels.h"

namespace tributary {

struct ExpertChoice {
  uint32_t expert = 0;
  float weight = 0;  // of its output
};

// The experts of a token, by their numbers: those with the highest softmax weights, of equal ones the lower numbers.
// `logits`: the router's, [num_experts]; `choices`: [experts_per_token].
void ChooseExperts(const MoeSpec& moe, std::span<const float> logits, std::span<ExpertChoice> choices);

// The products of one layer of experts. Thread-compatible.
class HostMoe {
 public:
  // Room for so many tokens of RunTogether(); none in a model without experts. Borrows.
  HostMoe(const HostWeights& weights, const RowKernels& kernels, size_t max_tokens);

  // out[t] = the layer's output for x[t], f32 [hidden] each, each token by itself: its bits do not depend on others.
  void RunEachToken(ThreadPool& pool, uint32_t layer, const float* x, size_t tokens, float* out);
  // The same, with one product for all tokens of an expert: on the caller's thread, and rounding depends on them.
  void RunTogether(uint32_t layer, const float* x, size_t tokens, float* out);

 private:
  // Biases and activation, of one token.
  void Activate(const HostExpert& expert, float* gate_up) const;

  const HostWeights& weights_;
  const RowKernels& kernels_;
  std::vector<float> logits_;          // [max_tokens][num_experts]
  std::vector<ExpertChoice> choices_;  // [max_tokens][experts_per_token]
  std::vector<float> gathered_;        // [max_tokens][hidden]
  std::vector<float> gate_up_;         // [max_tokens][2 intermediate]
  std::vector<float> expert_out_;      // [max_tokens][hidden]
};

}  // namespace tributary
