#include "policy/delta/delta_params.h"

#include <memory>
#include <string_view>

#include "attention/kv/key_code_layout.h"
#include "base/status.h"
#include "fmt/format.h"
#include "policy/delta/delta.h"
#include "policy/policy_registry.h"
#include "policy/sparse_params.h"

namespace tributary {
namespace {

constexpr std::string_view kName = "delta";

constexpr ParameterRow kRows[] = {
    NumberRow("max_share", kName, {0, 1}, 0.01, "share of the remote tokens that each query head reads at most"),
    NumberRow("delta_nats", kName, {0}, 8,
              "a token is read only if its score is so close to the highest one, 0: wherever it is"),
    CountRow("key_code_bits", kName, {1, 4}, 2, "bits per dim of the coarse keys that are scanned, 1, 2 or 4"),
};

absl::Status Complete(const PolicyContext&, const PolicyRequest&, PolicyParams* params) {
  const DeltaParams delta = ReadDeltaParams(*params);
  if (!(delta.max_share > 0)) {
    return absl::InvalidArgumentError(
        fmt::format("max_share is {}; use a share above 0, up to 1, which reads everything", delta.max_share));
  }
  if (IsKeyCodeBits(delta.key_code_bits)) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("key_code_bits is {}; use 1, 2 or 4", delta.key_code_bits));
}

std::unique_ptr<const AttentionPolicy> Make(const PolicyParams& params) {
  return std::make_unique<DeltaPolicy>(ReadDeltaParams(params), ReadSparseParams(params));
}

}  // namespace

DeltaParams ReadDeltaParams(const PolicyParams& params) {
  return {.key_code_bits = static_cast<uint32_t>(params.count("key_code_bits")),
          .max_share = params.number("max_share"),
          .delta_nats = params.number("delta_nats")};
}

const PolicyRules& DeltaRules() {
  static const PolicyRules rules{.name = kName,
                                 .is_sparse = true,
                                 .parameters = WithSparseParameters(kRows),
                                 .complete = &Complete,
                                 .make = &Make};
  return rules;
}

}  // namespace tributary
