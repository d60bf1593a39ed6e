// A policy with one parameter of each type, which exists in test binaries alone: proof that a parameter is a row, a
// member of its policy's struct, and its use. It reads everything.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "policy/policy.h"
#include "policy/policy_registry.h"
#include "policy/sparse_params.h"

namespace tributary {

inline constexpr std::string_view kEveryType = "everytype";
inline constexpr std::string_view kEveryTypeWords[] = {"near", "far"};
inline constexpr ParameterRow kEveryTypeRows[] = {
    NumberRow("et_share", kEveryType, {0.25, 0.75}, 0.5, "share of something"),
    CountRow("et_count", kEveryType, {2, 9}, 3, "how many"),
    WordRow("et_word", kEveryType, kEveryTypeWords, "near", "which way"),
    ListRow("et_layers", kEveryType, ParameterType::kLayers, "layers of something"),
    ListRow("et_heads", kEveryType, ParameterType::kHeads, "heads of something"),
};

struct EveryTypeParams {
  double share = 0;
  uint64_t count = 0;
  std::string word;
  std::vector<uint32_t> layers;
  std::vector<LayerHead> heads;

  friend bool operator==(const EveryTypeParams&, const EveryTypeParams&) = default;
};

inline EveryTypeParams ReadEveryTypeParams(const PolicyParams& params) {
  return {params.number("et_share"), params.count("et_count"), params.word("et_word"), params.layers("et_layers"),
          params.heads("et_heads")};
}

// Adds it to this process; again is fine.
inline void AddEveryTypePolicy() {
  static const PolicyRules rules{
      .name = kEveryType,
      .is_sparse = true,
      .parameters = WithSparseParameters(kEveryTypeRows),
      .complete = [](const PolicyContext&, const PolicyRequest&, PolicyParams* params) -> absl::Status {
        const EveryTypeParams read = ReadEveryTypeParams(*params);
        if (read.word != "far" || read.count > 2) return absl::OkStatus();
        return absl::InvalidArgumentError("et_word far needs an et_count above 2");
      },
      .make = [](const PolicyParams&) { return MakePolicy({}); }};
  if (!FindPolicy(kEveryType).ok()) AddPolicy(rules);
}

}  // namespace tributary
