#include "client/eval/head_usage.h"

#include <algorithm>

#include "base/limits.h"

namespace tributary {

void HeadUsage::Add(const v1::GenerateEvent::Summary& summary) {
  const uint64_t samples = summary.attention().samples();
  if (samples == 0) return;
  for (const auto& reported : summary.attention().heads()) {
    if (reported.layer() >= limits::kMaxLayers || reported.kv_head() >= limits::kMaxHeads) continue;
    const size_t width = std::max<size_t>(heads_.empty() ? 0 : heads_[0].size(), size_t{reported.kv_head()} + 1);
    heads_.resize(std::max<size_t>(heads_.size(), size_t{reported.layer()} + 1));
    for (std::vector<Head>& row : heads_) row.resize(width);
    Head& head = heads_[reported.layer()][reported.kv_head()];
    head.samples += samples;
    const double weight = static_cast<double>(samples) / static_cast<double>(head.samples);
    head.read_share += weight * (reported.read_share() - head.read_share);
    head.kept_mass_mean += weight * (reported.kept_mass_mean() - head.kept_mass_mean);
    head.kept_mass_min = std::min(head.kept_mass_min, reported.kept_mass_min());
    head.output_error_mean += weight * (reported.output_error_mean() - head.output_error_mean);
    head.output_error_max = std::max(head.output_error_max, reported.output_error_max());
  }
}

}  // namespace tributary
