#include "policy/fluxion/head_features.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace tributary {
namespace {

constexpr double kEmaWeight = 1.0 / 8;
constexpr uint64_t kMaxPastSteps = 16;
constexpr size_t kBestBlocks = 16;

// Places in FluxionFeatures, where each family begins, and of those that others are made of.
enum Place : size_t {
  kStructure = 0,
  kKv = 5,
  kCoarse = 12,
  kCoarsePeak = 12,
  kCoarseMass = 13,
  kCoarseEntropy = 16,
  kBoundPeak = 19,
  kOut = 20,
  kOutNormShare = 21,
  kDynamics = 26,
  kPast = 31,
  kAcross = 37,
};

double Log(double x) { return std::log(std::max(x, kLeastOfLog)); }

double Norm(std::span<const float> x) {
  double sum = 0;
  for (const float value : x) sum += double{value} * double{value};
  return std::sqrt(sum);
}

template <typename Other>
double Cosine(std::span<const float> a, std::span<const Other> b) {
  double product = 0, square = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    product += double{a[i]} * double{b[i]};
    square += double{b[i]} * double{b[i]};
  }
  return product / std::max(Norm(a) * std::sqrt(square), kLeastOfLog);
}

void Put(FluxionFeatures* to, size_t place, std::initializer_list<double> values) {
  for (const double value : values) (*to)[place++] = static_cast<float>(value);
}

}  // namespace

void WeightSums::Add(std::span<const float> weights) {
  for (const float weight : weights) {
    const double p{weight};
    entropy_ -= p * Log(p);
    if (position_ < num_sinks_) sink_share_ += p;
    if (position_ + kRecentTokens >= num_tokens_) recent_share_ += p;
    ++position_;
  }
}

std::span<const FluxionFeatures> HeadFeatures::Compute(const LayerView& view, std::span<HeadPast> past) {
  const size_t heads = view.heads.size();
  TRIBUTARY_CHECK_EQ(view.q.size(), heads * view.head_dim);
  TRIBUTARY_CHECK_EQ(view.kv_heads.size() * view.group_size, heads);
  TRIBUTARY_CHECK_EQ(view.head_rates.size(), heads * 2);
  TRIBUTARY_CHECK(view.last_layer.empty() || view.last_layer.size() == heads);
  TRIBUTARY_CHECK_EQ(past.size(), heads);
  features_.resize(heads);
  double largest_norm = 0;
  for (const ResidentHead& head : view.heads) largest_norm = std::max(largest_norm, head.out_norm);
  for (uint32_t head = 0; head < heads; ++head) {
    SetStructure(view, head);
    SetKv(view, head);
    SetCoarse(view, head);
    SetOut(view, head, largest_norm);
    SetDynamics(view, head, &past[head]);
    SetPast(head, &past[head]);
    ++past[head].num_steps;
  }
  SetAcross(view);
  return features_;
}

void HeadFeatures::SetStructure(const LayerView& view, uint32_t head) {
  const double context = static_cast<double>(view.context_tokens), remote = static_cast<double>(view.remote_tokens);
  Put(&features_[head], kStructure,
      {static_cast<double>(view.layer) / std::max(view.num_layers - 1.0, 1.0), std::log2(context / 4096),
       std::log2(remote / std::max(context - remote, 1.0)), double{view.head_rates[2 * size_t{head}]},
       double{view.head_rates[2 * size_t{head} + 1]}});
}

void HeadFeatures::SetKv(const LayerView& view, uint32_t head) {
  const KvHeadView& kv = view.kv_heads[head / view.group_size];
  const RemoteKeys& remote = *kv.remote;
  Put(&features_[head], kKv,
      {Log(remote.mean_key_norm()), remote.key_norm_deviation() / std::max(remote.mean_key_norm(), kLeastOfLog),
       Log(remote.mean_value_norm()), Log(kv.resident_value_norm),
       kv.sink_value_norm / std::max(remote.mean_value_norm(), kLeastOfLog), remote.anisotropy(), remote.scatter()});
}

void HeadFeatures::SetCoarse(const LayerView& view, uint32_t head) {
  const RemoteKeys& remote = *view.kv_heads[head / view.group_size].remote;
  const size_t blocks = remote.num_blocks();
  mean_scores_.resize(blocks);
  bounds_.resize(blocks);
  remote.Score(view.q.subspan(size_t{head} * view.head_dim, view.head_dim), view.softmax_scale, mean_scores_, bounds_);
  const double peak = *std::max_element(mean_scores_.begin(), mean_scores_.end());
  const double bound = *std::max_element(bounds_.begin(), bounds_.end());
  weights_.resize(blocks);
  double sum = 0, mean = 0, square = 0;
  for (size_t b = 0; b < blocks; ++b) {
    const double c{mean_scores_[b]};
    sum += weights_[b] = std::exp(c - peak);
    mean += c / static_cast<double>(blocks);
  }
  for (const float c : mean_scores_) square += (double{c} - mean) * (double{c} - mean);
  const double deviation = std::sqrt(square / static_cast<double>(blocks));
  double entropy = 0;
  for (double& weight : weights_) {
    weight /= sum;
    entropy -= weight * Log(weight);
  }
  std::sort(weights_.begin(), weights_.end(), std::greater<>());
  const auto mass_of_best = [&](size_t percent) {
    const auto count = static_cast<std::ptrdiff_t>((blocks * percent + 99) / 100);
    return std::accumulate(weights_.begin(), weights_.begin() + count, 0.0);
  };
  const double lse{view.heads[head].lse_ln};
  Put(&features_[head], kCoarse,
      {peak - lse, peak + std::log(sum) - lse, deviation, (peak - mean) / std::max(deviation, kLeastOfLog),
       entropy / std::log(static_cast<double>(std::max<size_t>(blocks, 2))), mass_of_best(1), mass_of_best(5),
       bound - lse});
  best_.resize(blocks);
  std::iota(best_.begin(), best_.end(), 0u);
  const size_t best = std::min(kBestBlocks, blocks);
  std::partial_sort(best_.begin(), best_.begin() + static_cast<std::ptrdiff_t>(best), best_.end(),
                    [&](uint32_t a, uint32_t b) {
                      return mean_scores_[a] != mean_scores_[b] ? mean_scores_[a] > mean_scores_[b] : a < b;
                    });
  best_.resize(best);
  std::sort(best_.begin(), best_.end());
}

void HeadFeatures::SetOut(const LayerView& view, uint32_t head, double largest_norm) {
  const ResidentHead& resident = view.heads[head];
  const double sink_norm = view.kv_heads[head / view.group_size].sink_value_norm;
  Put(&features_[head], kOut,
      {Log(resident.out_norm), resident.out_norm / std::max(largest_norm, kLeastOfLog), resident.weight_entropy,
       resident.sink_share, resident.recent_share,
       resident.sink_share * sink_norm / std::max(resident.out_norm, kLeastOfLog)});
}

void HeadFeatures::SetDynamics(const LayerView& view, uint32_t head, HeadPast* past) {
  const std::span<const float> q = view.q.subspan(size_t{head} * view.head_dim, view.head_dim);
  const double norm = Norm(q);
  if (past->num_steps == 0) {
    past->q.assign(q.begin(), q.end());
    past->mean_q.assign(q.begin(), q.end());
    past->mean_norm = norm;
    past->best = best_;
  }
  std::vector<uint32_t> both;
  std::set_intersection(best_.begin(), best_.end(), past->best.begin(), past->best.end(), std::back_inserter(both));
  const double either = static_cast<double>(best_.size() + past->best.size() - both.size());
  Put(&features_[head], kDynamics,
      {Cosine(q, std::span<const float>(past->q)), Log(norm), norm / std::max(past->mean_norm, kLeastOfLog),
       Cosine(q, std::span<const double>(past->mean_q)), static_cast<double>(both.size()) / either});
  past->q.assign(q.begin(), q.end());
  past->mean_norm += kEmaWeight * (norm - past->mean_norm);
  for (size_t d = 0; d < q.size(); ++d) past->mean_q[d] += kEmaWeight * (double{q[d]} - past->mean_q[d]);
  past->best = best_;
}

void HeadFeatures::SetPast(uint32_t head, HeadPast* past) {
  FluxionFeatures& features = features_[head];
  const std::array<double, 5> now = {double{features[kCoarseMass]}, double{features[kCoarsePeak]},
                                     double{features[kBoundPeak]}, double{features[kOutNormShare]},
                                     double{features[kCoarseEntropy]}};
  if (past->num_steps == 0) past->means = now;
  const auto steps = static_cast<double>(std::min(past->num_steps, kMaxPastSteps));
  Put(&features, kPast,
      {past->means[0], past->means[1], past->means[2], past->means[3], past->means[4], std::log1p(steps)});
  for (size_t i = 0; i < now.size(); ++i) past->means[i] += kEmaWeight * (now[i] - past->means[i]);
}

void HeadFeatures::SetAcross(const LayerView& view) {
  const size_t heads = view.heads.size();
  double mean_mass = 0;
  for (const FluxionFeatures& features : features_) {
    mean_mass += double{features[kCoarseMass]} / static_cast<double>(heads);
  }
  group_masses_.assign(heads, 0.0);
  for (size_t head = 0; head < heads; ++head) {
    const size_t first = head / view.group_size * view.group_size;
    float peak = features_[first][kCoarsePeak], mass = features_[first][kCoarseMass];
    for (size_t other = first; other < first + view.group_size; ++other) {
      peak = std::max(peak, features_[other][kCoarsePeak]);
      mass = std::max(mass, features_[other][kCoarseMass]);
    }
    group_masses_[head] = double{mass};
    const auto smaller = std::count_if(view.heads.begin(), view.heads.end(), [&](const ResidentHead& other) {
      return other.out_norm < view.heads[head].out_norm;
    });
    Put(&features_[head], kAcross,
        {static_cast<double>(smaller) / static_cast<double>(std::max<size_t>(heads - 1, 1)), double{peak}, mean_mass,
         view.last_layer.empty() ? 0.0 : view.last_layer[head]});
  }
}

}  // namespace tributary
