// The 41 features of each query head of a layer at a decode step (feature_spec.h), from what a worker knows: the plain
// twin, which defines the numbers. Pure; thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "policy/fluxion/feature_spec.h"
#include "policy/fluxion/remote_keys.h"

namespace tributary {

inline constexpr double kLeastOfLog = 1e-20;
inline constexpr uint32_t kRecentTokens = 64;

using FluxionFeatures = std::array<float, kNumFluxionFeatures>;

// What the resident attention of one query head showed.
struct ResidentHead {
  float lse_ln = 0;
  double out_norm = 0;
  double weight_entropy = 0;  // in nats
  double sink_share = 0;
  double recent_share = 0;  // of the last kRecentTokens
};

// Softmax weights in token order, some at a time. Sinks are the first tokens.
class WeightSums {
 public:
  // Of `num_tokens` weights in all, the first `num_sinks` of sinks.
  WeightSums(uint64_t num_tokens, uint64_t num_sinks) : num_tokens_(num_tokens), num_sinks_(num_sinks) {}
  void Add(std::span<const float> weights);

  double entropy() const { return entropy_; }
  double sink_share() const { return sink_share_; }
  double recent_share() const { return recent_share_; }

 private:
  const uint64_t num_tokens_, num_sinks_;
  uint64_t position_ = 0;
  double entropy_ = 0, sink_share_ = 0, recent_share_ = 0;
};

// What earlier steps of a query head showed, and, while features are made, this one.
struct HeadPast {
  uint64_t num_steps = 0;
  std::vector<float> q;        // of the last step, [head_dim]
  std::vector<double> mean_q;  // ema
  double mean_norm = 0;
  std::vector<uint32_t> best;  // coarse blocks of the last step, ascending
  // ema of coarse_mass, coarse_peak, bound_peak, out_norm_share, coarse_entropy.
  std::array<double, 5> means{};
};

// Of one KV head.
struct KvHeadView {
  const RemoteKeys* remote = nullptr;
  double resident_value_norm = 0;  // mean |v| of resident tokens
  double sink_value_norm = 0;      // of sinks; 0: there are none
};

struct LayerView {
  uint32_t layer = 0;
  uint32_t num_layers = 1;
  uint64_t context_tokens = 0;  // this step's included
  uint64_t remote_tokens = 0;   // above 0
  uint32_t group_size = 1;
  uint32_t head_dim = 0;
  float softmax_scale = 0;
  std::span<const float> q;              // [q_head][head_dim]
  std::span<const ResidentHead> heads;   // [q_head]
  std::span<const KvHeadView> kv_heads;  // [kv_head]
  std::span<const float> head_rates;     // [q_head][2]: streaming_rate, mean_log_budget
  std::span<const double> last_layer;    // [q_head]: GroupMasses() of the layer before; empty: the first
};

class HeadFeatures {
 public:
  // Features of the step, which `past` ([q_head]) then counts among its steps. REQUIRES (checked): the spans' sizes,
  // and remote keys of every KV head.
  std::span<const FluxionFeatures> Compute(const LayerView& view, std::span<HeadPast> past);
  // For the next layer's view: [q_head], max over its group of coarse_mass.
  std::span<const double> group_masses() const { return group_masses_; }

 private:
  void SetStructure(const LayerView& view, uint32_t head);
  void SetKv(const LayerView& view, uint32_t head);
  void SetCoarse(const LayerView& view, uint32_t head);
  void SetOut(const LayerView& view, uint32_t head, double largest_norm);
  void SetDynamics(const LayerView& view, uint32_t head, HeadPast* past);
  void SetPast(uint32_t head, HeadPast* past);
  void SetAcross(const LayerView& view);

  std::vector<FluxionFeatures> features_;  // [q_head]
  std::vector<double> group_masses_;
  std::vector<float> mean_scores_, bounds_;  // of one head: [block]
  std::vector<double> weights_;              // softmax(c), then sorted
  std::vector<uint32_t> best_;
};

}  // namespace tributary
