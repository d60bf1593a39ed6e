#include "policy/hgca/hgca_params.h"

#include <algorithm>

#include "base/limits.h"
#include "fmt/format.h"
#include "policy/hgca/hgca.h"
#include "policy/policy_registry.h"
#include "policy/sparse_params.h"

namespace tributary {
namespace {

constexpr std::string_view kName = "hgca";
constexpr std::string_view kAggregates[] = {"max", "mean"};  // by GroupAggregate

constexpr ParameterRow kRows[] = {
    NumberRow("alpha", kName, {0, 1}, 0.5, "weight of the newest step in the MAW, 0 to 1"),
    NumberRow("beta", kName, {0}, 1, "threshold, times the uniform weight, 0 reads all"),
    CountRow("keep_min", kName, {0, limits::kMaxBlockTokens}, 10, "tokens kept of each block and KV head"),
    CountRow("keep_next", kName, {0, 64}, 0, "tokens kept behind each salient one, 8 finds codes again"),
    WordRow("group_aggregate", kName, kAggregates, "mean", "salience of a KV head from its query heads, max or mean"),
    CountRow("max_cache_tokens", kName, {}, 0,
             "selected tokens of a KV head beyond which they are distilled, 0: never"),
};

absl::Status Complete(const PolicyContext& context, const PolicyRequest& asked, PolicyParams* params) {
  const uint64_t block_tokens = context.block_tokens;
  if (block_tokens != 0 && asked.Find("keep_min") == nullptr) {
    params->Set("keep_min", std::min(params->count("keep_min"), block_tokens));
  }
  const HgcaParams hgca = ReadHgcaParams(*params);
  if (block_tokens != 0 && hgca.keep_min > block_tokens) {
    return absl::InvalidArgumentError(
        fmt::format("keep_min is {}, more than the {} tokens of a block; use at most that, or larger blocks",
                    hgca.keep_min, block_tokens));
  }
  if (hgca.max_cache_tokens != 0 && hgca.beta == 0) {
    return absl::InvalidArgumentError(fmt::format(
        "beta 0 reads everything, which max_cache_tokens {} forbids; drop one of them", hgca.max_cache_tokens));
  }
  if (hgca.max_cache_tokens != 0 && hgca.max_cache_tokens / 2 < hgca.keep_min) {
    return absl::InvalidArgumentError(fmt::format("max_cache_tokens is {}; it must be at least twice keep_min ({})",
                                                  hgca.max_cache_tokens, hgca.keep_min));
  }
  return absl::OkStatus();
}

std::unique_ptr<const AttentionPolicy> Make(const PolicyParams& params) {
  return std::make_unique<HgcaPolicy>(ReadHgcaParams(params), ReadSparseParams(params));
}

}  // namespace

HgcaParams ReadHgcaParams(const PolicyParams& params) {
  return {.alpha = params.number("alpha"),
          .beta = params.number("beta"),
          .keep_min = static_cast<uint32_t>(params.count("keep_min")),
          .keep_next = static_cast<uint32_t>(params.count("keep_next")),
          .group_aggregate = params.word("group_aggregate") == "max" ? GroupAggregate::kMax : GroupAggregate::kMean,
          .max_cache_tokens = params.count("max_cache_tokens")};
}

const PolicyRules& HgcaRules() {
  static const PolicyRules rules{.name = kName,
                                 .is_sparse = true,
                                 .parameters = WithSparseParameters(kRows),
                                 .complete = &Complete,
                                 .make = &Make};
  return rules;
}

}  // namespace tributary
