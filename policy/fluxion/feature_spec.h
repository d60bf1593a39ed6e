// What a budget predictor reads of a query head at a decode step: 41 numbers in seven families, all known to the worker
// alone. Each has a name and its formula; together they are the feature spec, whose hash a trained predictor carries:
// one that was trained on other features is refused. tools/fluxion_features.py reads this table and computes the same
// numbers in PyTorch; tests hold both to the same values.
//
// q: the head's query; s: the softmax scale; S: tokens of the sequence; n: remote ones, of which k and v are keys and
// values of the head's KV head; r = S - n: resident ones, with softmax weights p, output o_r and L_r, the natural lse.
// Remote tokens lie in coarse blocks of 128 from the first one on; m_j is the mean key of block j, w_j its tokens,
// c_j = s q.m_j + ln w_j, and u_j = s sum over dims of max(q_d max k_d, q_d min k_d), Quest's bound. Logarithms
// are natural unless they say log2, and of at least 1e-20; |x| is the Euclidean norm; ema(x) is
// the moving average of x over the steps before this one, with weight 1/8 for the newest, begun by the first.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace tributary {

inline constexpr uint32_t kNumFluxionFeatures = 41;
inline constexpr uint32_t kFluxionCoarseTokens = 128;

struct FluxionFeature {
  std::string_view name;
  std::string_view formula;
};

// clang-format off
inline constexpr std::array<FluxionFeature, kNumFluxionFeatures> kFluxionFeatures = {{
    // Structure. The two rates are the predictor file's, of the layer and head.
    {"layer", "layer / (layers - 1), 0 of a single layer"},
    {"context", "log2(S / 4096)"},
    {"remote_share", "log2(n / r)"},
    {"streaming_rate", "share of training steps at which the head needed nothing"},
    {"mean_log_budget", "mean log of the budgets that it needed at the others"},
    // Distribution of K and V, of the KV head.
    {"key_norm", "log mean |k|"},
    {"key_norm_spread", "standard deviation of |k| / mean |k|"},
    {"value_norm", "log mean |v|"},
    {"resident_value_norm", "log mean |v| of resident tokens"},
    {"sink_value_norm", "mean |v| of sinks / mean |v|"},
    {"key_anisotropy", "|mean k|^2 / mean |k|^2"},
    {"key_scatter", "mean over tokens of |k - m_j|^2 / mean |k - mean k|^2"},
    // Interaction of query and keys.
    {"coarse_peak", "max c - L_r"},
    {"coarse_mass", "lse(c) - L_r"},
    {"coarse_spread", "standard deviation of c over blocks"},
    {"coarse_peakedness", "(max c - mean c) / standard deviation of c"},
    {"coarse_entropy", "entropy of softmax(c) / ln of the number of blocks"},
    {"coarse_top_1", "mass of softmax(c) in its ceil(1 %) best blocks"},
    {"coarse_top_5", "mass of softmax(c) in its ceil(5 %) best blocks"},
    {"bound_peak", "max u - L_r"},
    // Contribution of the resident tokens to the output.
    {"out_norm", "log |o_r|"},
    {"out_norm_share", "|o_r| / max over the layer's heads of |o_r|"},
    {"weight_entropy", "entropy of p"},
    {"sink_share", "sum of p over sinks"},
    {"recent_share", "sum of p over the last 64 tokens"},
    {"sink_out_share", "sink_share mean |v| of sinks / |o_r|"},
    // Dynamics of the query; of a first step 1, 1, 1 and 1.
    {"query_step", "cos(q, q of the last step)"},
    {"query_norm", "log |q|"},
    {"query_norm_change", "|q| / ema(|q|)"},
    {"query_drift", "cos(q, ema(q))"},
    {"coarse_overlap", "Jaccard index of the 16 best blocks by c with the last step's"},
    // Earlier steps; of a first step this step's own values.
    {"past_coarse_mass", "ema(coarse_mass)"},
    {"past_coarse_peak", "ema(coarse_peak)"},
    {"past_bound_peak", "ema(bound_peak)"},
    {"past_out_norm_share", "ema(out_norm_share)"},
    {"past_coarse_entropy", "ema(coarse_entropy)"},
    {"past_steps", "ln(1 + min(steps before, 16))"},
    // Across heads.
    {"out_norm_rank", "heads of the layer with a smaller |o_r| / (heads - 1)"},
    {"group_coarse_peak", "max over the group of coarse_peak"},
    {"layer_coarse_mass", "mean over the layer's heads of coarse_mass"},
    {"last_layer_coarse_mass", "max over the group of coarse_mass, of the layer before, 0 of the first"},
}};
// clang-format on

// 16 hexadecimal digits: the FNV-1a hash of every name, a colon, its formula and a newline, in this order.
std::string FluxionFeatureSpecHash();

}  // namespace tributary
